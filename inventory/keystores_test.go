package inventory

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"
)

// storePages is KMS with custom key stores on several pages.
type storePages struct{ KMS }

func (storePages) DescribeCustomKeyStores(_ context.Context, in *kms.DescribeCustomKeyStoresInput, _ ...func(*kms.Options)) (*kms.DescribeCustomKeyStoresOutput, error) {
	if in.Marker == nil {
		return &kms.DescribeCustomKeyStoresOutput{Truncated: true, NextMarker: aws.String("2"), CustomKeyStores: []types.CustomKeyStoresListEntry{{
			CustomKeyStoreId: aws.String("cks-1"), CustomKeyStoreName: aws.String("vault"), CustomKeyStoreType: types.CustomKeyStoreTypeAwsCloudhsm,
			CloudHsmClusterId: aws.String("cluster-1"), ConnectionState: types.ConnectionStateTypeFailed, ConnectionErrorCode: types.ConnectionErrorCodeTypeUserLockedOut,
		}}}, nil
	}
	return &kms.DescribeCustomKeyStoresOutput{CustomKeyStores: []types.CustomKeyStoresListEntry{{
		CustomKeyStoreId: aws.String("cks-2"), CustomKeyStoreType: types.CustomKeyStoreTypeExternalKeyStore, ConnectionState: types.ConnectionStateTypeConnected,
		XksProxyConfiguration: &types.XksProxyConfigurationType{Connectivity: types.XksProxyConnectivityTypePublicEndpoint, UriEndpoint: aws.String("https://proxy.example"), UriPath: aws.String("/kms/xks/v1"), AccessKeyId: aws.String("ABC")},
	}}}, nil
}

func TestKeyStores(t *testing.T) {
	got, err := New(storePages{}, nil, account, region).KeyStores(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []KeyStore{
		{ID: "cks-1", Name: "vault", State: "FAILED", Error: "USER_LOCKED_OUT", Settings: "AWS_CLOUDHSM cluster-1"},
		{ID: "cks-2", State: "CONNECTED", Settings: "EXTERNAL_KEY_STORE  PUBLIC_ENDPOINT https://proxy.example /kms/xks/v1  ABC"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stores (-want +got):\n%s", diff)
	}
}
