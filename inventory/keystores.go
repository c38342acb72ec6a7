package inventory

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// KeyStore is a custom key store.
type KeyStore struct {
	ID, Name string
	// State is its connection's: CONNECTED, CONNECTING, FAILED, DISCONNECTED or DISCONNECTING;
	// Error is why it failed (ConnectionErrorCode), "" where it did not.
	State, Error string
	// Settings are what it is connected to: its cluster, or its proxy with the access key.
	Settings string
}

// KeyStores reads all custom key stores of the account and Region. Errors: ErrAccessDenied.
func (r *Reader) KeyStores(ctx context.Context) ([]KeyStore, error) {
	var stores []KeyStore
	pages := kms.NewDescribeCustomKeyStoresPaginator(r.kms, &kms.DescribeCustomKeyStoresInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx, paced(ctx)...)
		if err != nil {
			return nil, failed("describe custom key stores", err)
		}
		for _, s := range page.CustomKeyStores {
			stores = append(stores, keyStoreOf(s))
		}
	}
	return stores, nil
}

func keyStoreOf(s types.CustomKeyStoresListEntry) KeyStore {
	settings := []string{string(s.CustomKeyStoreType), aws.ToString(s.CloudHsmClusterId)}
	if x := s.XksProxyConfiguration; x != nil {
		settings = append(settings, string(x.Connectivity), aws.ToString(x.UriEndpoint), aws.ToString(x.UriPath), aws.ToString(x.VpcEndpointServiceName), aws.ToString(x.AccessKeyId))
	}
	return KeyStore{
		ID: aws.ToString(s.CustomKeyStoreId), Name: aws.ToString(s.CustomKeyStoreName),
		State: string(s.ConnectionState), Error: string(s.ConnectionErrorCode), Settings: strings.TrimSpace(strings.Join(settings, " ")),
	}
}
