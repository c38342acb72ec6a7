package kms

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// The kinds of custom key stores, which are the origins of their keys too, and
// what is modelled of a store's connection: connecting and disconnecting take
// no time and always succeed.
const (
	storeCloudHSM     = "AWS_CLOUDHSM"
	storeExternal     = "EXTERNAL_KEY_STORE"
	storeConnected    = "CONNECTED"
	storeDisconnected = "DISCONNECTED"
)

// keyStore is a custom key store. Nothing of the cluster or of the proxy behind
// it is modelled: its keys are made and kept here like all others.
type keyStore struct {
	id, name, kind string
	connection     string
	created        time.Time
	keyStoreTerms
}

// keyStoreTerms is what a store is connected by.
type keyStoreTerms struct {
	CloudHsmClusterID      string `json:"CloudHsmClusterId,omitempty" trail:"clusterId"`
	TrustAnchorCertificate string `json:"TrustAnchorCertificate,omitempty" trail:"-"`
	XksProxyConnectivity   string `json:"XksProxyConnectivity,omitempty"`
	XksProxyURIEndpoint    string `json:"XksProxyUriEndpoint,omitempty"`
	XksProxyURIPath        string `json:"XksProxyUriPath,omitempty"`
}

// keyStoreSecrets are what KMS logs in with; it never tells them again.
type keyStoreSecrets struct {
	KeyStorePassword                 string `json:"KeyStorePassword" trail:"-"`
	XksProxyAuthenticationCredential struct {
		AccessKeyID        string `json:"AccessKeyId"`
		RawSecretAccessKey string `json:"RawSecretAccessKey"`
	} `json:"XksProxyAuthenticationCredential" trail:"-"`
}

// keyStoreData is what CloudTrail adds to a record about a store.
type keyStoreData struct {
	CustomKeyStoreName string `json:"CustomKeyStoreName"`
	ClusterID          string `json:"ClusterId"`
}

// keyStore finds the store of an operation that needs a permission on all of them.
func (c *call) keyStore(id string) (*keyStore, error) {
	if err := c.authorizeIdentity(c.name); err != nil {
		return nil, err
	}
	store := c.stores[id]
	if store == nil {
		return nil, wire.Errorf(400, "CustomKeyStoreNotFoundException", "Custom key store %s is not found.", id)
	}
	c.additional = keyStoreData{store.name, store.CloudHsmClusterID}
	return store, nil
}

// storeOf finds the store in which a key of the origin is created.
func (c *call) storeOf(id, origin string) (*keyStore, error) {
	store := c.stores[id]
	switch {
	case store == nil:
		return nil, wire.Errorf(400, "CustomKeyStoreNotFoundException", "Custom key store %s is not found.", id)
	case store.kind != origin:
		return nil, invalid("Custom key store %s is of type %s, not %s", id, store.kind, origin)
	case store.connection != storeConnected:
		return nil, store.invalidState()
	}
	return store, nil
}

func (s *keyStore) invalidState() error {
	return wire.Errorf(400, "CustomKeyStoreInvalidStateException", "Custom key store %s is %s.", s.id, s.connection)
}

// hasKeys reports whether the store has keys, also those that wait for their deletion.
func (s *Service) hasKeys(store *keyStore) bool {
	for _, k := range s.keys {
		if k.store == store {
			return true
		}
	}
	return false
}

// hasExternalKey reports whether a key of the store has the external key.
func (s *Service) hasExternalKey(store *keyStore, id string) bool {
	for _, k := range s.keys {
		if k.store == store && k.xksKeyID == id {
			return true
		}
	}
	return false
}

// checkStore refuses terms that another store has.
func (s *Service) checkStore(name string, terms keyStoreTerms, self *keyStore) error {
	for _, other := range s.stores {
		switch {
		case other == self:
		case other.name == name:
			return wire.Errorf(400, "CustomKeyStoreNameInUseException", "Another custom key store is named %s.", name)
		case terms.CloudHsmClusterID != "" && other.CloudHsmClusterID == terms.CloudHsmClusterID:
			return wire.Errorf(400, "CloudHsmClusterInUseException", "Cluster %s belongs to another custom key store.", terms.CloudHsmClusterID)
		}
	}
	return nil
}

type createCustomKeyStoreInput struct {
	CustomKeyStoreName string `json:"CustomKeyStoreName"`
	CustomKeyStoreType string `json:"CustomKeyStoreType"`
	keyStoreTerms
	keyStoreSecrets
}

type customKeyStoreIDs struct {
	CustomKeyStoreID string `json:"CustomKeyStoreId"`
}

func createCustomKeyStore(c *call, in *createCustomKeyStoreInput) (customKeyStoreIDs, error) {
	var out customKeyStoreIDs
	if err := c.authorizeIdentity(c.name); err != nil {
		return out, err
	}
	kind := in.CustomKeyStoreType
	if kind == "" {
		kind = storeCloudHSM
	}
	var complete bool
	switch kind {
	case storeCloudHSM:
		complete = in.CloudHsmClusterID != "" && in.KeyStorePassword != "" && in.TrustAnchorCertificate != ""
	case storeExternal:
		complete = in.XksProxyConnectivity != "" && in.XksProxyURIEndpoint != "" && in.XksProxyURIPath != "" && in.XksProxyAuthenticationCredential.AccessKeyID != ""
	}
	if !complete || in.CustomKeyStoreName == "" {
		return out, invalid("A required parameter of a custom key store of type %s is missing", kind)
	}
	if err := c.checkStore(in.CustomKeyStoreName, in.keyStoreTerms, nil); err != nil {
		return out, err
	}
	store := &keyStore{
		id: "cks-" + randomHex(9)[:17], name: in.CustomKeyStoreName, kind: kind,
		connection: storeDisconnected, created: c.now, keyStoreTerms: in.keyStoreTerms,
	}
	c.stores[store.id] = store
	out.CustomKeyStoreID = store.id
	c.response = out
	return out, nil
}

type updateCustomKeyStoreInput struct {
	customKeyStoreIDs
	NewCustomKeyStoreName string `json:"NewCustomKeyStoreName"`
	keyStoreTerms
	keyStoreSecrets
}

// noAnswer is the answer of operations whose answer is an empty object.
type noAnswer struct{}

// updateCustomKeyStore changes what is given. While the store is connected, that
// may be its name alone.
func updateCustomKeyStore(c *call, in *updateCustomKeyStoreInput) (noAnswer, error) {
	store, err := c.keyStore(in.CustomKeyStoreID)
	if err != nil {
		return noAnswer{}, err
	}
	onlyName := in.keyStoreTerms == keyStoreTerms{} && in.keyStoreSecrets == keyStoreSecrets{}
	if store.connection != storeDisconnected && !onlyName {
		return noAnswer{}, store.invalidState()
	}
	if err := c.checkStore(in.NewCustomKeyStoreName, in.keyStoreTerms, store); err != nil {
		return noAnswer{}, err
	}
	for _, change := range []struct {
		member *string
		value  string
	}{
		{&store.name, in.NewCustomKeyStoreName},
		{&store.CloudHsmClusterID, in.CloudHsmClusterID},
		{&store.XksProxyConnectivity, in.XksProxyConnectivity},
		{&store.XksProxyURIEndpoint, in.XksProxyURIEndpoint},
		{&store.XksProxyURIPath, in.XksProxyURIPath},
	} {
		if change.value != "" {
			*change.member = change.value
		}
	}
	return noAnswer{}, nil
}

func deleteCustomKeyStore(c *call, in *customKeyStoreIDs) (noAnswer, error) {
	store, err := c.keyStore(in.CustomKeyStoreID)
	if err != nil {
		return noAnswer{}, err
	}
	if store.connection != storeDisconnected {
		return noAnswer{}, store.invalidState()
	}
	if c.hasKeys(store) {
		return noAnswer{}, wire.Errorf(400, "CustomKeyStoreHasCMKsException", "Custom key store %s has KMS keys.", store.id)
	}
	delete(c.stores, store.id)
	return noAnswer{}, nil
}

func connectCustomKeyStore(c *call, in *customKeyStoreIDs) (noAnswer, error) {
	store, err := c.keyStore(in.CustomKeyStoreID)
	if err != nil {
		return noAnswer{}, err
	}
	store.connection = storeConnected
	return noAnswer{}, nil
}

func disconnectCustomKeyStore(c *call, in *customKeyStoreIDs) (noAnswer, error) {
	store, err := c.keyStore(in.CustomKeyStoreID)
	if err != nil {
		return noAnswer{}, err
	}
	if store.connection == storeDisconnected {
		return noAnswer{}, store.invalidState()
	}
	store.connection = storeDisconnected
	return noAnswer{}, nil
}

type describeCustomKeyStoresInput struct {
	CustomKeyStoreID   string `json:"CustomKeyStoreId"`
	CustomKeyStoreName string `json:"CustomKeyStoreName"`
	pageInput
}

type describeCustomKeyStoresOutput struct {
	CustomKeyStores []keyStoreEntry `json:"CustomKeyStores"`
	pageOutput
}

type keyStoreEntry struct {
	CustomKeyStoreID       string         `json:"CustomKeyStoreId"`
	CustomKeyStoreName     string         `json:"CustomKeyStoreName"`
	CustomKeyStoreType     string         `json:"CustomKeyStoreType"`
	ConnectionState        string         `json:"ConnectionState"`
	CreationDate           timestamp      `json:"CreationDate"`
	CloudHsmClusterID      string         `json:"CloudHsmClusterId,omitempty"`
	TrustAnchorCertificate string         `json:"TrustAnchorCertificate,omitempty"`
	XksProxyConfiguration  *keyStoreProxy `json:"XksProxyConfiguration,omitempty"`
}

type keyStoreProxy struct {
	Connectivity string `json:"Connectivity"`
	URIEndpoint  string `json:"UriEndpoint"`
	URIPath      string `json:"UriPath"`
}

func describeCustomKeyStores(c *call, in *describeCustomKeyStoresInput) (describeCustomKeyStoresOutput, error) {
	var out describeCustomKeyStoresOutput
	if err := c.authorizeIdentity(c.name); err != nil {
		return out, err
	}
	stores := slices.SortedFunc(maps.Values(c.stores), func(a, b *keyStore) int { return strings.Compare(a.id, b.id) })
	entries := []keyStoreEntry{}
	for _, s := range stores {
		if in.CustomKeyStoreID != "" && in.CustomKeyStoreID != s.id || in.CustomKeyStoreName != "" && in.CustomKeyStoreName != s.name {
			continue
		}
		e := keyStoreEntry{
			CustomKeyStoreID: s.id, CustomKeyStoreName: s.name, CustomKeyStoreType: s.kind, ConnectionState: s.connection,
			CreationDate: timestamp(s.created), CloudHsmClusterID: s.CloudHsmClusterID, TrustAnchorCertificate: s.TrustAnchorCertificate,
		}
		if s.kind == storeExternal {
			e.XksProxyConfiguration = &keyStoreProxy{s.XksProxyConnectivity, s.XksProxyURIEndpoint, s.XksProxyURIPath}
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 && in.CustomKeyStoreID+in.CustomKeyStoreName != "" {
		return out, wire.Errorf(400, "CustomKeyStoreNotFoundException", "Custom key store %s is not found.", in.CustomKeyStoreID+in.CustomKeyStoreName)
	}
	var err error
	out.CustomKeyStores, out.pageOutput, err = paginate(entries, func(e keyStoreEntry) string { return e.CustomKeyStoreID }, in.pageInput, 100, 1000)
	return out, err
}
