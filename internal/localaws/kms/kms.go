// Package kms models AWS KMS in one account and Region: key states, rotation,
// policies, aliases, grants, imported material, real AES-256-GCM encryption,
// and the CloudTrail records and native events that AWS makes of all that.
//
// What it leaves out answers UnknownOperationException and is never guessed:
// asymmetric and HMAC cryptography (such keys exist, with their metadata), what
// is behind a custom key store (its keys are kept here like all others), and
// replica keys in other Regions (a multi-Region key here knows its Regions; the
// other ones hold nothing, so a primary key that waits for its replicas' deletion
// waits for DeleteReplica).
// AWS's eventual consistency is not modelled either: an answer is final at once.
//
// Key states and their errors follow the "Key state table" of the KMS developer
// guide; where it allows two errors, a comment says which one is given.
package kms

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// Config is what New needs.
type Config struct {
	// Account and Region are where all keys live.
	Account, Region string
	// IAM says what those callers may do that it knows. Nil knows the root user alone.
	IAM *iam.Account
	// Trail records the calls. Nil discards them.
	Trail *trail.Recorder
}

// Service is a KMS endpoint. Its methods may be called concurrently.
type Service struct {
	account, region string
	iam             *iam.Account
	trail           *trail.Recorder
	operations      map[string]wire.JSONOperation

	mu        sync.Mutex
	keys      map[string]*key   // by key id
	aliases   map[string]*alias // by name
	stores    map[string]*keyStore
	due       time.Time   // when advance has something to do next; zero for never
	timer     *time.Timer // wakes advance then
	closed    bool
	callbacks sync.WaitGroup
}

// New returns a KMS without keys.
func New(c Config) *Service {
	s := &Service{
		account: c.Account,
		region:  c.Region,
		iam:     c.IAM,
		trail:   c.Trail,
		keys:    map[string]*key{},
		aliases: map[string]*alias{},
		stores:  map[string]*keyStore{},
	}
	if s.iam == nil {
		s.iam = iam.NewAccount(c.Account)
	}
	if s.trail == nil {
		s.trail = trail.New(trail.Config{})
	}
	s.operations = s.table()
	return s
}

// ServeHTTP answers a request of the AWS JSON protocol. The caller and the
// request id are taken from the request's context (wire.WithRequest).
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wire.ServeJSON(w, r, s.operations)
}

// Close stops all timers and waits for those that are running. The service goes
// on answering requests.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	s.callbacks.Wait()
}

// call is one request in the making: who asks, and what its record will say.
type call struct {
	*Service
	name      string
	readOnly  bool
	caller    wire.Caller
	requestID string
	eventID   string
	now       time.Time
	via       string // the AWS service that calls on the caller's behalf, or ""

	params     any               // the request, with defaults filled in, for requestParameters
	response   any               // for responseElements; nil names the key
	additional any               // for additionalEventData
	key        *key              // the key that the call is about
	resources  []string          // ARNs; empty means the key's
	context    map[string]string // condition keys of this operation
	data       map[string]string // the encryption context of this operation

	afterRecord func() // what KMS does once the call is recorded, so that its events follow
}

// do runs one operation under the lock, records it, and publishes what it caused.
func (s *Service) do(c *call, operation func(c *call) (any, error)) (any, error) {
	s.mu.Lock()
	c.Service, c.now, c.eventID = s, time.Now(), wire.NewUUID()
	s.advance(c.now)
	out, err := operation(c)
	s.record(c, err)
	if err == nil && c.afterRecord != nil {
		c.afterRecord()
	}
	s.mu.Unlock()
	s.trail.Flush()
	return out, err
}

// handle makes a JSON operation of a function over a typed request.
func handle[In, Out any](s *Service, name string, readOnly bool, operation func(c *call, in *In) (Out, error)) wire.JSONOperation {
	return wire.JSON(func(ctx context.Context, in In) (any, error) {
		c := &call{
			name: name, readOnly: readOnly, params: &in,
			caller: wire.CallerFrom(ctx), requestID: wire.RequestIDFrom(ctx),
		}
		return s.do(c, func(c *call) (any, error) { return operation(c, &in) })
	})
}

// noOutput makes an operation with an answer of one without.
func noOutput[In any](operation func(c *call, in *In) error) func(*call, *In) (any, error) {
	return func(c *call, in *In) (any, error) { return nil, operation(c, in) }
}

func (s *Service) table() map[string]wire.JSONOperation {
	const read, write = true, false
	return map[string]wire.JSONOperation{
		"CancelKeyDeletion":               handle(s, "CancelKeyDeletion", write, cancelKeyDeletion),
		"ConnectCustomKeyStore":           handle(s, "ConnectCustomKeyStore", write, connectCustomKeyStore),
		"CreateAlias":                     handle(s, "CreateAlias", write, noOutput(createAlias)),
		"CreateCustomKeyStore":            handle(s, "CreateCustomKeyStore", write, createCustomKeyStore),
		"CreateGrant":                     handle(s, "CreateGrant", write, createGrant),
		"CreateKey":                       handle(s, "CreateKey", write, createKey),
		"Decrypt":                         handle(s, "Decrypt", read, decrypt),
		"DeleteAlias":                     handle(s, "DeleteAlias", write, noOutput(deleteAlias)),
		"DeleteCustomKeyStore":            handle(s, "DeleteCustomKeyStore", write, deleteCustomKeyStore),
		"DeleteImportedKeyMaterial":       handle(s, "DeleteImportedKeyMaterial", write, deleteImportedKeyMaterial),
		"DescribeCustomKeyStores":         handle(s, "DescribeCustomKeyStores", read, describeCustomKeyStores),
		"DescribeKey":                     handle(s, "DescribeKey", read, describeKey),
		"DisableKey":                      handle(s, "DisableKey", write, noOutput(disableKey)),
		"DisableKeyRotation":              handle(s, "DisableKeyRotation", write, noOutput(disableKeyRotation)),
		"DisconnectCustomKeyStore":        handle(s, "DisconnectCustomKeyStore", write, disconnectCustomKeyStore),
		"EnableKey":                       handle(s, "EnableKey", write, noOutput(enableKey)),
		"EnableKeyRotation":               handle(s, "EnableKeyRotation", write, noOutput(enableKeyRotation)),
		"Encrypt":                         handle(s, "Encrypt", read, encrypt),
		"GenerateDataKey":                 handle(s, "GenerateDataKey", read, generateDataKey),
		"GenerateDataKeyWithoutPlaintext": handle(s, "GenerateDataKeyWithoutPlaintext", read, generateDataKeyWithoutPlaintext),
		"GenerateRandom":                  handle(s, "GenerateRandom", read, generateRandom),
		"GetKeyLastUsage":                 handle(s, "GetKeyLastUsage", read, getKeyLastUsage),
		"GetKeyPolicy":                    handle(s, "GetKeyPolicy", read, getKeyPolicy),
		"GetKeyRotationStatus":            handle(s, "GetKeyRotationStatus", read, getKeyRotationStatus),
		"GetParametersForImport":          handle(s, "GetParametersForImport", read, getParametersForImport),
		"ImportKeyMaterial":               handle(s, "ImportKeyMaterial", write, importKeyMaterial),
		"ListAliases":                     handle(s, "ListAliases", read, listAliases),
		"ListGrants":                      handle(s, "ListGrants", read, listGrants),
		"ListKeyPolicies":                 handle(s, "ListKeyPolicies", read, listKeyPolicies),
		"ListKeyRotations":                handle(s, "ListKeyRotations", read, listKeyRotations),
		"ListKeys":                        handle(s, "ListKeys", read, listKeys),
		"ListResourceTags":                handle(s, "ListResourceTags", read, listResourceTags),
		"ListRetirableGrants":             handle(s, "ListRetirableGrants", read, listRetirableGrants),
		"PutKeyPolicy":                    handle(s, "PutKeyPolicy", write, noOutput(putKeyPolicy)),
		"ReEncrypt":                       handle(s, "ReEncrypt", read, reEncrypt),
		"ReplicateKey":                    handle(s, "ReplicateKey", write, replicateKey),
		"RetireGrant":                     handle(s, "RetireGrant", write, noOutput(retireGrant)),
		"RevokeGrant":                     handle(s, "RevokeGrant", write, noOutput(revokeGrant)),
		"RotateKeyOnDemand":               handle(s, "RotateKeyOnDemand", write, rotateKeyOnDemand),
		"ScheduleKeyDeletion":             handle(s, "ScheduleKeyDeletion", write, scheduleKeyDeletion),
		"TagResource":                     handle(s, "TagResource", write, noOutput(tagResource)),
		"UntagResource":                   handle(s, "UntagResource", write, noOutput(untagResource)),
		"UpdateAlias":                     handle(s, "UpdateAlias", write, noOutput(updateAlias)),
		"UpdateCustomKeyStore":            handle(s, "UpdateCustomKeyStore", write, updateCustomKeyStore),
		"UpdateKeyDescription":            handle(s, "UpdateKeyDescription", write, noOutput(updateKeyDescription)),
		"UpdatePrimaryRegion":             handle(s, "UpdatePrimaryRegion", write, noOutput(updatePrimaryRegion)),
	}
}
