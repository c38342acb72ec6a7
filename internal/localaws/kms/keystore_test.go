package kms_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
)

// A custom key store's keys work while it is connected, and every change of it is
// recorded with its name and without what it is opened with.
func TestCustomKeyStore(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	c, ctx := w.as("ADA"), t.Context()
	in := &sdk.CreateCustomKeyStoreInput{
		CustomKeyStoreName: aws.String("vault"), CloudHsmClusterId: aws.String("cluster-1"),
		KeyStorePassword: aws.String("open sesame"), TrustAnchorCertificate: aws.String("certificate"),
	}
	store, err := c.CreateCustomKeyStore(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.CreateCustomKeyStore(ctx, in)
	if code(err) != "CustomKeyStoreNameInUseException" {
		t.Errorf("the same again: %v", err)
	}
	createKey := func() (*sdk.CreateKeyOutput, error) {
		return c.CreateKey(ctx, &sdk.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: store.CustomKeyStoreId})
	}
	if _, err = createKey(); code(err) != "CustomKeyStoreInvalidStateException" {
		t.Errorf("a key in a store that is not connected: %v", err)
	}
	if _, err := c.ConnectCustomKeyStore(ctx, &sdk.ConnectCustomKeyStoreInput{CustomKeyStoreId: store.CustomKeyStoreId}); err != nil {
		t.Fatal(err)
	}
	created, err := createKey()
	if err != nil || aws.ToString(created.KeyMetadata.CustomKeyStoreId) != aws.ToString(store.CustomKeyStoreId) || aws.ToString(created.KeyMetadata.CloudHsmClusterId) != "cluster-1" {
		t.Fatalf("key %+v: %v", created, err)
	}
	key := created.KeyMetadata.KeyId
	encrypt := func() string {
		_, err := c.Encrypt(ctx, &sdk.EncryptInput{KeyId: key, Plaintext: []byte("x")})
		return code(err)
	}
	if got := encrypt(); got != "" {
		t.Errorf("connected: %s", got)
	}
	if _, err := c.UpdateCustomKeyStore(ctx, &sdk.UpdateCustomKeyStoreInput{CustomKeyStoreId: store.CustomKeyStoreId, NewCustomKeyStoreName: aws.String("safe")}); err != nil {
		t.Errorf("another name: %v", err)
	}
	_, err = c.UpdateCustomKeyStore(ctx, &sdk.UpdateCustomKeyStoreInput{CustomKeyStoreId: store.CustomKeyStoreId, KeyStorePassword: aws.String("x")})
	if code(err) != "CustomKeyStoreInvalidStateException" {
		t.Errorf("another password while connected: %v", err)
	}
	w.take()
	if _, err := c.DisconnectCustomKeyStore(ctx, &sdk.DisconnectCustomKeyStoreInput{CustomKeyStoreId: store.CustomKeyStoreId}); err != nil {
		t.Fatal(err)
	}
	d := w.last(t).Detail
	if diff := cmp.Diff([]string{"DisconnectCustomKeyStore", `{"customKeyStoreId":"` + *store.CustomKeyStoreId + `"}`, "null", `{"customKeyStoreName":"safe","clusterId":"cluster-1"}`},
		[]string{d.EventName, string(d.RequestParameters), string(d.ResponseElements), string(d.AdditionalEventData)}); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if described, err := c.DescribeKey(ctx, &sdk.DescribeKeyInput{KeyId: key}); err != nil || described.KeyMetadata.KeyState != types.KeyStateUnavailable {
		t.Errorf("described: %+v, %v", described, err)
	}
	if got := encrypt(); got != "KMSInvalidStateException" {
		t.Errorf("disconnected: %s", got)
	}
	if _, err := c.UpdateCustomKeyStore(ctx, &sdk.UpdateCustomKeyStoreInput{CustomKeyStoreId: store.CustomKeyStoreId, KeyStorePassword: aws.String("new secret")}); err != nil {
		t.Error(err)
	}
	if d := w.last(t).Detail; strings.Contains(string(d.RequestParameters), "secret") {
		t.Errorf("the record tells a password: %s", d.RequestParameters)
	}
	remove := func() string {
		_, err := c.DeleteCustomKeyStore(ctx, &sdk.DeleteCustomKeyStoreInput{CustomKeyStoreId: store.CustomKeyStoreId})
		return code(err)
	}
	if got := remove(); got != "CustomKeyStoreHasCMKsException" {
		t.Errorf("deleting a store with a key: %q", got)
	}
	if out, err := c.DescribeCustomKeyStores(ctx, &sdk.DescribeCustomKeyStoresInput{CustomKeyStoreName: aws.String("safe")}); err != nil || len(out.CustomKeyStores) != 1 || out.CustomKeyStores[0].ConnectionState != types.ConnectionStateTypeDisconnected {
		t.Errorf("described: %+v, %v", out, err)
	}
	if _, err := w.as("READER").DescribeCustomKeyStores(ctx, &sdk.DescribeCustomKeyStoresInput{}); code(err) != "AccessDeniedException" {
		t.Errorf("described by a reader: %v", err)
	}
}

func TestExternalKeyStore(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	c, ctx := w.as("ADA"), t.Context()
	store, err := c.CreateCustomKeyStore(ctx, &sdk.CreateCustomKeyStoreInput{
		CustomKeyStoreName: aws.String("elsewhere"), CustomKeyStoreType: types.CustomKeyStoreTypeExternalKeyStore, XksProxyConnectivity: types.XksProxyConnectivityTypePublicEndpoint,
		XksProxyUriEndpoint: aws.String("https://xks.example.com"), XksProxyUriPath: aws.String("/kms/xks/v1"),
		XksProxyAuthenticationCredential: &types.XksProxyAuthenticationCredentialType{AccessKeyId: aws.String("AAAAAAAAAAAAAAAAAAAA"), RawSecretAccessKey: aws.String("secretsecretsecretsecretsecretsecretsecret=")},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := w.last(t).Detail
	if strings.Contains(string(d.RequestParameters), "secret") || !strings.Contains(string(d.RequestParameters), `"xksProxyUriEndpoint":"https://xks.example.com"`) ||
		string(d.ResponseElements) != `{"customKeyStoreId":"`+*store.CustomKeyStoreId+`"}` {
		t.Errorf("record %+v", d)
	}
	if _, err := c.ConnectCustomKeyStore(ctx, &sdk.ConnectCustomKeyStoreInput{CustomKeyStoreId: store.CustomKeyStoreId}); err != nil {
		t.Fatal(err)
	}
	in := &sdk.CreateKeyInput{Origin: types.OriginTypeExternalKeyStore, CustomKeyStoreId: store.CustomKeyStoreId}
	if _, err := c.CreateKey(ctx, in); code(err) != "ValidationException" {
		t.Errorf("without the external key's id: %v", err)
	}
	in.XksKeyId = aws.String("key-1")
	if out, err := c.CreateKey(ctx, in); err != nil || aws.ToString(out.KeyMetadata.XksKeyConfiguration.Id) != "key-1" {
		t.Errorf("key %+v: %v", out, err)
	}
	if _, err := c.CreateKey(ctx, in); code(err) != "XksKeyAlreadyInUseException" {
		t.Errorf("the same external key again: %v", err)
	}
	in.XksKeyId, in.MultiRegion = aws.String("key-2"), aws.Bool(true)
	if _, err := c.CreateKey(ctx, in); code(err) != "UnsupportedOperationException" {
		t.Errorf("a multi-Region key in a store: %v", err)
	}
	if _, err := c.CreateKey(ctx, &sdk.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: store.CustomKeyStoreId}); code(err) != "ValidationException" {
		t.Errorf("of the wrong kind: %v", err)
	}
}
