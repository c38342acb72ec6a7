// Package envelope encrypts what an application stores, with data keys from AWS KMS, in a
// format that is made to be moved to another KMS key: the wrapped data key and the ARN of
// its KMS key stand in a header that [Header.Rewrapped] replaces, while the data stay as
// they are and are never decrypted for it.
//
//	sealer, err := envelope.New(kms.NewFromConfig(cfg), "arn:aws:kms:eu-west-1:111122223333:alias/app", envelope.Options{
//		Rules: envelope.Rules{Required: []string{"tenant"}},
//		Cache: envelope.Cache{MaxAge: 5 * time.Minute, MaxMessages: 10_000, MaxBytes: 1 << 30, MaxEntries: 100},
//	})
//	defer sealer.Close()
//	sealed, err := sealer.Seal(ctx, plaintext, map[string]string{"tenant": "a"})
//	plaintext, err = sealer.Open(ctx, sealed, map[string]string{"tenant": "a"})
//
// Each message has an encryption context, which is not secret: the header and CloudTrail
// show it. Who opens a message has to give the same context.
//
// The format is described to the byte in docs/envelope-format.md, and why it is as it is in
// docs/decisions/envelope-format.md.
package envelope

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// KMS is what a Sealer calls of AWS KMS; *kms.Client has it. Calls may be concurrent.
type KMS interface {
	GenerateDataKey(context.Context, *kms.GenerateDataKeyInput, ...func(*kms.Options)) (*kms.GenerateDataKeyOutput, error)
	Decrypt(context.Context, *kms.DecryptInput, ...func(*kms.Options)) (*kms.DecryptOutput, error)
}

// Options configures a Sealer. The zero value allows any encryption context but an empty
// one, and asks KMS for each message.
type Options struct {
	// Rules are what encryption contexts have to be like, of what is sealed and of what is
	// opened.
	Rules Rules
	// Cache bounds the cache of data keys. The zero value means that there is none.
	Cache Cache
	// Trusted says under which KMS keys a message may be that is opened: ARNs of keys, and
	// accounts (twelve digits) whose keys all may be. A header may be forged, and KMS
	// decrypts under a key of anybody's who lets us: without this, a stranger's messages
	// would open. Nil means the account in the ARN that New is given. A list of ARNs has to
	// get the new key's before messages move to it.
	Trusted []string
}

// Sealer seals and opens messages. It is for concurrent use. What fmt prints of it has no
// key in it.
type Sealer struct {
	client  KMS
	key     string
	rules   Rules
	trusted []string
	keys    *cache
	// Tests replace these two.
	random    func([]byte)
	chunkBits byte
}

// New returns a Sealer that seals under key: the ARN of a KMS key or, better, of an alias,
// so that what is sealed after the alias has moved is under the new key. A key id or an
// alias's name will do where o.Trusted is given. KMS is not called. The error names every
// option that is wrong.
func New(client KMS, key string, o Options) (*Sealer, error) {
	s := &Sealer{
		client: client, key: key, rules: o.Rules.clone(), trusted: slices.Clone(o.Trusted), keys: newCache(o.Cache),
		random:    func(b []byte) { rand.Read(b) }, // which never fails
		chunkBits: defaultChunkBits,
	}
	var wrong []string
	switch account := arn.Account(key); {
	case key == "":
		wrong = append(wrong, "no key is given: give the ARN of an alias or of a key")
	case o.Trusted == nil && account == "":
		wrong = append(wrong, fmt.Sprintf("%q does not say whose key it is: give the ARN of the alias or key, or set Trusted", key))
	case o.Trusted == nil:
		s.trusted = []string{account}
	}
	for _, t := range o.Trusted {
		if !isAccount(t) && checkKeyARN(t) != nil {
			wrong = append(wrong, fmt.Sprintf("Trusted has %q: give ARNs of keys and accounts of twelve digits", t))
		}
	}
	if err := o.Rules.valid(); err != nil {
		wrong = append(wrong, err.Error())
	}
	if err := o.Cache.valid(); err != nil {
		wrong = append(wrong, err.Error())
	}
	if wrong != nil {
		return nil, fmt.Errorf("make a sealer: %s", strings.Join(wrong, "; "))
	}
	return s, nil
}

// Seal returns plaintext as a message, bound to the encryption context. The error is
// ErrContext where the context is empty or against the rules, ErrKey where KMS sealed
// under a key that Open would not trust, ErrKeyUnusable, ErrDenied, or KMS's own.
func (s *Sealer) Seal(ctx context.Context, plaintext []byte, encryptionContext map[string]string) ([]byte, error) {
	m, header, err := s.begin(ctx, encryptionContext, int64(len(plaintext)))
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	chunks := max(1, (len(plaintext)+m.chunkSize-1)/m.chunkSize)
	out := make([]byte, 0, len(header)+len(plaintext)+chunks*tagSize)
	out = append(out, header...)
	for rest, last := plaintext, false; !last; {
		chunk := rest[:min(len(rest), m.chunkSize)]
		rest = rest[len(chunk):]
		last = len(rest) == 0
		if out, err = m.seal(out, chunk, last); err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
	}
	return out, nil
}

// Open returns the plaintext of a message that was sealed with this encryption context, to
// the letter. It takes no more memory than the message. The error, which comes with no
// plaintext at all, is ErrNotEnvelope, ErrVersion, ErrTampered, ErrContext, ErrKey,
// ErrKeyUnusable, ErrDenied, or KMS's own.
func (s *Sealer) Open(ctx context.Context, sealed []byte, encryptionContext map[string]string) ([]byte, error) {
	h, err := ReadHeader(bytes.NewReader(sealed))
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	rest := sealed[h.Size:]
	m, err := s.resume(ctx, h, encryptionContext, int64(len(rest)))
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	out := make([]byte, 0, len(rest))
	for last := false; !last; {
		chunk := rest[:min(len(rest), m.chunkSize+tagSize)]
		rest = rest[len(chunk):]
		last = len(rest) == 0
		opened, err := m.open(out, chunk, last)
		if err != nil {
			clear(out[:cap(out)])
			return nil, fmt.Errorf("open: %w", err)
		}
		out = opened
	}
	return out, nil
}

// Stats returns what the cache has saved until now. Without a cache, only requests count.
func (s *Sealer) Stats() Stats { return s.keys.figures() }

// Close wipes the data keys of the cache. Messages that are being written or read go on;
// others fail.
func (s *Sealer) Close() { s.keys.close() }

// Format prints the KMS key's name whatever the verb: nothing else is to be seen.
func (s Sealer) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "envelope.Sealer(%s)", s.key) }

// begin starts a message and returns its header. size is how long it will be, 0 where
// that is not known.
func (s *Sealer) begin(ctx context.Context, encryptionContext map[string]string, size int64) (*message, []byte, error) {
	if err := s.rules.Check(encryptionContext); err != nil {
		return nil, nil, err
	}
	encoded := encodeContext(encryptionContext)
	k, err := s.keys.get(ctx, cacheID("seal", encoded), size, func(ctx context.Context) (*dataKey, error) {
		return s.generate(ctx, encryptionContext)
	})
	if err != nil {
		return nil, nil, err
	}
	defer k.wipe()
	h := Header{KeyARN: k.arn, WrappedKey: k.wrapped, ChunkSize: 1 << s.chunkBits}
	var id [messageIDSize]byte
	s.random(id[:])
	h.bound = encodeBound(s.chunkBits, id, encoded)
	m, commitment, err := s.message(k, &h)
	if err != nil {
		return nil, nil, err
	}
	copy(h.commitment[:], commitment)
	return m, h.bytes(), nil
}

// resume starts the reading of the message with that header. size is how long it is, 0
// where that is not known.
func (s *Sealer) resume(ctx context.Context, h *Header, encryptionContext map[string]string, size int64) (*message, error) {
	if err := s.rules.Check(encryptionContext); err != nil {
		return nil, err
	}
	if !maps.Equal(encryptionContext, h.Context) {
		return nil, fmt.Errorf("%w: %s", ErrContext, difference(encryptionContext, h.Context))
	}
	if !s.trusts(h.KeyARN) {
		return nil, fmt.Errorf("%w: the message names %s, which is not trusted: see Options.Trusted", ErrKey, h.KeyARN)
	}
	id := cacheID("open", []byte(h.KeyARN), h.WrappedKey, h.encodedContext())
	k, err := s.keys.get(ctx, id, size, func(ctx context.Context) (*dataKey, error) { return s.unwrap(ctx, h) })
	if err != nil {
		return nil, err
	}
	defer k.wipe()
	m, commitment, err := s.message(k, h)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(commitment, h.commitment[:]) != 1 {
		return nil, fmt.Errorf("%w: its header does not belong to its data key", ErrTampered)
	}
	return m, nil
}

// message derives the keys of a message from its data key, which is not needed any more then.
func (s *Sealer) message(k *dataKey, h *Header) (m *message, commitment []byte, err error) {
	aead, commitment, err := derive(k.secret, h.messageID(), h.bound)
	if err != nil {
		return nil, nil, err
	}
	used := k.entry
	return &message{aead: aead, chunkSize: h.ChunkSize, charge: func(n int64) { s.keys.charge(used, n) }}, commitment, nil
}

// generate asks KMS for a new data key.
func (s *Sealer) generate(ctx context.Context, encryptionContext map[string]string) (*dataKey, error) {
	s.keys.count(&s.keys.stats.GenerateDataKeys)
	out, err := s.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: aws.String(s.key), KeySpec: types.DataKeySpecAes256, EncryptionContext: encryptionContext,
	})
	if err != nil {
		return nil, kmsError("generate a data key under "+s.key, err)
	}
	defer clear(out.Plaintext)
	k := &dataKey{wrapped: out.CiphertextBlob, arn: aws.ToString(out.KeyId)}
	if err := checkWrapping(k.arn, k.wrapped); err != nil {
		return nil, fmt.Errorf("KMS answered GenerateDataKey with what cannot be stored: %w", err)
	}
	if !s.trusts(k.arn) {
		return nil, fmt.Errorf("%w: %s is %s, which Options.Trusted does not name: what is sealed could not be opened", ErrKey, s.key, k.arn)
	}
	if len(out.Plaintext) != dataKeySize {
		return nil, fmt.Errorf("KMS answered GenerateDataKey with %d bytes, not %d", len(out.Plaintext), dataKeySize)
	}
	k.secret = (*[dataKeySize]byte)(bytes.Clone(out.Plaintext))
	return k, nil
}

// unwrap has KMS decrypt the data key of a header.
func (s *Sealer) unwrap(ctx context.Context, h *Header) (*dataKey, error) {
	s.keys.count(&s.keys.stats.Decrypts)
	out, err := s.client.Decrypt(ctx, &kms.DecryptInput{
		KeyId: aws.String(h.KeyARN), CiphertextBlob: h.WrappedKey, EncryptionContext: h.Context,
	})
	if err != nil {
		return nil, kmsError("decrypt a data key under "+h.KeyARN, err)
	}
	defer clear(out.Plaintext)
	if got := aws.ToString(out.KeyId); got != h.KeyARN {
		return nil, fmt.Errorf("%w: KMS decrypted under %q, the message names %s", ErrKey, got, h.KeyARN)
	}
	if len(out.Plaintext) != dataKeySize {
		return nil, fmt.Errorf("%w: its data key has %d bytes, not %d", ErrTampered, len(out.Plaintext), dataKeySize)
	}
	return &dataKey{secret: (*[dataKeySize]byte)(bytes.Clone(out.Plaintext))}, nil
}

func (s *Sealer) trusts(keyARN string) bool {
	return slices.Contains(s.trusted, keyARN) || slices.Contains(s.trusted, arn.Account(keyARN))
}

// isAccount reports whether s is the number of an account.
func isAccount(s string) bool { return len(s) == 12 && strings.Trim(s, "0123456789") == "" }
