package envelope

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

const (
	account = "111122223333"
	alias   = "arn:aws:kms:eu-west-1:" + account + ":alias/app"
)

var tenantA = map[string]string{"tenant": "a", "purpose": "invoices"}

// cloud is an account with an alias of a KMS key.
type cloud struct {
	*localaws.Server
	*kms.Client
	key string // the ARN
}

func newCloud(t testing.TB) *cloud {
	t.Helper()
	server := localaws.New(localaws.Options{Account: account, Region: "eu-west-1"})
	t.Cleanup(server.Close)
	c := &cloud{Server: server, Client: kms.NewFromConfig(inprocess.Config(server, "eu-west-1", "app"))}
	c.key = c.createKey(t)
	if _, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/app"), TargetKeyId: &c.key}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cloud) createKey(t testing.TB) string {
	t.Helper()
	out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	return *out.KeyMetadata.Arn
}

// rewrap moves a message to another KMS key, as whoever has no permission to decrypt does.
func (c *cloud) rewrap(t testing.TB, sealed []byte, to string) []byte {
	t.Helper()
	in := bytes.NewReader(sealed)
	h, err := ReadHeader(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.ReEncrypt(t.Context(), &kms.ReEncryptInput{
		CiphertextBlob: h.WrappedKey, SourceKeyId: &h.KeyARN, SourceEncryptionContext: h.Context,
		DestinationKeyId: &to, DestinationEncryptionContext: h.Context,
	})
	if err != nil {
		t.Fatal(err)
	}
	header, err := h.Rewrapped(*out.KeyId, out.CiphertextBlob)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return append(header, body...)
}

func newSealer(t testing.TB, client KMS, key string, o Options) *Sealer {
	t.Helper()
	s, err := New(client, key, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func seal(t testing.TB, s *Sealer, plaintext []byte, encryptionContext map[string]string) []byte {
	t.Helper()
	sealed, err := s.Seal(t.Context(), plaintext, encryptionContext)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// write seals with a Writer, which gets the plaintext in pieces; 0 means by io.Copy.
func write(t testing.TB, s *Sealer, plaintext []byte, encryptionContext map[string]string, piece int) []byte {
	t.Helper()
	var sealed bytes.Buffer
	w, err := s.NewWriter(t.Context(), &sealed, encryptionContext)
	if err != nil {
		t.Fatal(err)
	}
	if piece == 0 {
		_, err = io.Copy(w, struct{ io.Reader }{bytes.NewReader(plaintext)})
	} else {
		_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{bytes.NewReader(plaintext)}, make([]byte, piece))
	}
	if err := errors.Join(err, w.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a closed message takes more")
	}
	return sealed.Bytes()
}

// read opens with a Reader, in pieces; 0 means by io.Copy.
func read(ctx context.Context, s *Sealer, src io.Reader, encryptionContext map[string]string, piece int) ([]byte, error) {
	r, err := s.NewReader(ctx, src, encryptionContext)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if piece == 0 {
		_, err = io.Copy(struct{ io.Writer }{&out}, r)
	} else {
		_, err = io.CopyBuffer(struct{ io.Writer }{&out}, struct{ io.Reader }{r}, make([]byte, piece))
	}
	return out.Bytes(), err
}

func TestRoundTrips(t *testing.T) {
	c := newCloud(t)
	data := make([]byte, 3<<16+1)
	rand.Read(data)
	for _, bits := range []byte{4, 5, 16} {
		s := newSealer(t, c, alias, Options{})
		s.chunkBits = bits
		chunk := 1 << bits
		for _, size := range []int{0, 1, chunk - 1, chunk, chunk + 1, 2*chunk - 1, 2 * chunk, 2*chunk + 1, 3 * chunk} {
			plaintext := data[:size]
			messages := [][]byte{seal(t, s, plaintext, tenantA)}
			for _, piece := range []int{0, 1 + chunk/3, chunk, chunk + 1, 5 * chunk} {
				messages = append(messages, write(t, s, plaintext, tenantA, piece))
			}
			for i, sealed := range messages {
				if want := messages[0]; len(sealed) != len(want) {
					t.Errorf("chunk %d, size %d: message %d has %d bytes, that of Seal %d", chunk, size, i, len(sealed), len(want))
				}
				got, err := s.Open(t.Context(), sealed, tenantA)
				if err != nil || !bytes.Equal(got, plaintext) {
					t.Errorf("chunk %d, size %d, message %d: opened %d bytes, %v", chunk, size, i, len(got), err)
				}
				for _, piece := range []int{0, 1 + chunk/3, 5 * chunk} {
					got, err := read(t.Context(), s, iotest.DataErrReader(bytes.NewReader(sealed)), tenantA, piece)
					if err != nil || !bytes.Equal(got, plaintext) {
						t.Errorf("chunk %d, size %d, message %d, pieces of %d: read %d bytes, %v", chunk, size, i, piece, len(got), err)
					}
				}
			}
		}
	}
}

func TestRewrappedOpensWhenTheOldKeyIsGone(t *testing.T) {
	c := newCloud(t)
	s := newSealer(t, c, alias, Options{})
	s.chunkBits = 4
	plaintext := []byte("some lines of text that take more than a chunk")
	sealed := seal(t, s, plaintext, tenantA)
	to := c.createKey(t)
	moved := c.rewrap(t, sealed, to)
	if _, err := c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: aws.String("alias/app"), TargetKeyId: &to}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &c.key}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), sealed, tenantA); !errors.Is(err, ErrKeyUnusable) {
		t.Errorf("the message under the old key: %v", err)
	}
	got, err := s.Open(t.Context(), moved, tenantA)
	if err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("the moved message: %q, %v", got, err)
	}
	h, err := ReadHeader(bytes.NewReader(moved))
	if err != nil || h.KeyARN != to || !bytes.Equal(moved[h.Size:], sealed[len(sealed)-len(moved)+h.Size:]) {
		t.Errorf("header %+v, %v", h, err)
	}
	if n := c.Requests("kms", "Decrypt"); n != 2 {
		t.Errorf("Decrypt was called %d times, and is needed only to open", n)
	}
}

func TestErrors(t *testing.T) {
	c := newCloud(t)
	s := newSealer(t, c, alias, Options{Rules: Rules{Required: []string{"tenant"}}})
	sealed := seal(t, s, []byte("text"), tenantA)
	other := c.createKey(t)

	change := func(f func(h *Header)) []byte {
		h, err := ReadHeader(bytes.NewReader(sealed))
		if err != nil {
			t.Fatal(err)
		}
		size := h.Size
		f(h)
		return append(h.bytes(), sealed[size:]...)
	}
	opens := func(sealed []byte, encryptionContext map[string]string) error {
		t.Helper()
		got, err := s.Open(t.Context(), sealed, encryptionContext)
		if err != nil && got != nil {
			t.Errorf("%v, and yet there is %q", err, got)
		}
		_, streamed := read(t.Context(), s, bytes.NewReader(sealed), encryptionContext, 0)
		if fmt.Sprint(streamed) != fmt.Sprint(err) && !strings.Contains(fmt.Sprint(err), "RequestID") {
			t.Errorf("Open says %v, the reader %v", err, streamed)
		}
		return err
	}
	identity := func(allowed bool) { c.SetIdentityPolicy("app", func(string, string) bool { return allowed }) }

	for name, tt := range map[string]struct {
		err  error
		want error
	}{
		"another value":   {opens(sealed, map[string]string{"tenant": "b", "purpose": "invoices"}), ErrContext},
		"a subset":        {opens(sealed, map[string]string{"tenant": "a"}), ErrContext},
		"a superset":      {opens(sealed, map[string]string{"tenant": "a", "purpose": "invoices", "x": "y"}), ErrContext},
		"no context":      {opens(sealed, nil), ErrContext},
		"against rules":   {opens(sealed, map[string]string{"purpose": "invoices"}), ErrContext},
		"a foreign key":   {opens(change(func(h *Header) { h.KeyARN = strings.Replace(h.KeyARN, account, "444455556666", 1) }), tenantA), ErrKey},
		"another key":     {opens(change(func(h *Header) { h.KeyARN = other }), tenantA), ErrKey},
		"no such key":     {opens(change(func(h *Header) { h.KeyARN = h.KeyARN[:len(h.KeyARN)-4] + "0000" }), tenantA), ErrKeyUnusable},
		"the wrapped key": {opens(change(func(h *Header) { h.WrappedKey[len(h.WrappedKey)-1] ^= 1 }), tenantA), ErrTampered},
		"a newer version": {opens(append([]byte(magic+"\x02"), sealed[8:]...), tenantA), ErrVersion},
		"an algorithm":    {opens(change(func(h *Header) { h.bound[0] = 2 }), tenantA), ErrVersion},
		"something else":  {opens([]byte("-----BEGIN CERTIFICATE-----"), tenantA), ErrNotEnvelope},
		"nothing":         {opens(nil, tenantA), ErrNotEnvelope},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v, want %v", name, tt.err, tt.want)
		}
		for _, err := range []error{ErrNotEnvelope, ErrVersion, ErrTampered, ErrContext, ErrKey, ErrKeyUnusable, ErrDenied} {
			if errors.Is(tt.err, err) && err != tt.want { //nolint:errorlint // they are compared, not their chains
				t.Errorf("%s: %v is %v as well", name, tt.err, err)
			}
		}
	}
	if _, err := s.Seal(t.Context(), nil, map[string]string{"purpose": "x"}); !errors.Is(err, ErrContext) {
		t.Errorf("sealed against the rules: %v", err)
	}

	identity(false)
	if err := opens(sealed, tenantA); !errors.Is(err, ErrDenied) {
		t.Errorf("without permission: %v", err)
	}
	if _, err := s.Seal(t.Context(), nil, tenantA); !errors.Is(err, ErrDenied) {
		t.Errorf("without permission: %v", err)
	}
	identity(true)
	if _, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &c.key}); err != nil {
		t.Fatal(err)
	}
	if err := opens(sealed, tenantA); !errors.Is(err, ErrKeyUnusable) {
		t.Errorf("under a disabled key: %v", err)
	}
	if _, err := s.Seal(t.Context(), nil, tenantA); !errors.Is(err, ErrKeyUnusable) {
		t.Errorf("under a disabled key: %v", err)
	}
	if _, err := newSealer(t, c, other, Options{Trusted: []string{c.key}}).Seal(t.Context(), nil, tenantA); !errors.Is(err, ErrKey) {
		t.Errorf("under a key that Open would not trust: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Open(cancelled, sealed, tenantA); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	s.Close()
	if _, err := s.Open(t.Context(), sealed, tenantA); err == nil {
		t.Error("a closed sealer opens")
	}
}

// A stranger wraps a data key under a key of his own, lets everybody use it, and sends a
// message with our context.
func TestMessagesUnderAStrangersKey(t *testing.T) {
	c := newCloud(t)
	theirs := c.createKey(t)
	forged := seal(t, newSealer(t, c, theirs, Options{}), []byte("pay"), tenantA)
	if _, err := newSealer(t, c, alias, Options{Trusted: []string{c.key}}).Open(t.Context(), forged, tenantA); !errors.Is(err, ErrKey) {
		t.Errorf("opened: %v", err)
	}
	if n := c.Requests("kms", "Decrypt"); n != 0 {
		t.Errorf("KMS was asked %d times", n)
	}
	if _, err := newSealer(t, c, alias, Options{Trusted: []string{c.key, theirs}}).Open(t.Context(), forged, tenantA); err != nil {
		t.Error(err)
	}
}

func TestNew(t *testing.T) {
	complete := Cache{MaxAge: 1, MaxMessages: 1, MaxBytes: 1, MaxEntries: 1}
	partial := complete
	partial.MaxBytes = 0
	for _, tt := range []struct {
		key  string
		o    Options
		want string
	}{
		{alias, Options{}, ""},
		{alias, Options{Cache: complete}, ""},
		{"alias/app", Options{Trusted: []string{account}}, ""},
		{"alias/app", Options{}, "set Trusted"},
		{"", Options{}, "no key is given"},
		{alias, Options{Trusted: []string{"1234"}}, `"1234"`},
		{alias, Options{Trusted: []string{alias}}, "alias/app"},
		{alias, Options{Cache: partial}, "MaxBytes"},
		{alias, Options{Rules: Rules{Values: map[string][]string{"purpose": nil}}}, `"purpose"`},
	} {
		_, err := New(nil, tt.key, tt.o)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%q, %+v: %v", tt.key, tt.o, err)
		}
	}
}

// What breaks below a stream is not taken for tampering, and stays.
func TestBrokenStreams(t *testing.T) {
	c := newCloud(t)
	s := newSealer(t, c, alias, Options{})
	s.chunkBits = 4
	sealed := seal(t, s, make([]byte, 40), tenantA)
	h, _ := ReadHeader(bytes.NewReader(sealed))
	for _, broken := range []error{errors.New("broken"), io.ErrUnexpectedEOF} {
		for _, at := range []int{0, 5, 100, h.Size, h.Size + 40, len(sealed)} {
			src := io.MultiReader(bytes.NewReader(sealed[:at]), iotest.ErrReader(broken))
			if _, err := read(t.Context(), s, src, tenantA, 0); !errors.Is(err, broken) || errors.Is(err, ErrTampered) {
				t.Errorf("broken after %d bytes: %v", at, err)
			}
		}
		for at := range len(sealed) {
			w, err := s.NewWriter(t.Context(), &failing{left: at, err: broken}, tenantA)
			if err == nil {
				_, err = w.Write(make([]byte, 40))
				err = errors.Join(err, w.Close())
				if again := w.Close(); !errors.Is(again, broken) {
					t.Errorf("closed again: %v", again)
				}
			}
			if !errors.Is(err, broken) {
				t.Errorf("broken after %d bytes: %v", at, err)
			}
		}
	}
	w, err := s.NewWriter(t.Context(), io.Discard, tenantA)
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range []error{errors.New("broken"), io.ErrUnexpectedEOF, fmt.Errorf("broken: %w", io.EOF)} {
		if n, err := io.Copy(w, &breaking{[]byte("0123456789"), broken}); n != 10 || !errors.Is(err, broken) {
			t.Errorf("copied %d bytes, %v", n, err)
		}
		if got, err := read(t.Context(), s, &breaking{sealed[:h.Size+40], broken}, tenantA, 0); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%v looks like the end: %q, %v", broken, got, err)
		}
	}
}

// breaking gives what it has, and then the error.
type breaking struct {
	left []byte
	err  error
}

func (b *breaking) Read(p []byte) (int, error) {
	n := copy(p, b.left)
	if b.left = b.left[n:]; n == 0 {
		return 0, b.err
	}
	return n, nil
}

type failing struct {
	left int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, f.err
	}
	return len(p), nil
}

func TestTooManyChunks(t *testing.T) {
	s := newSealer(t, newCloud(t), alias, Options{})
	s.chunkBits = 4
	w, err := s.NewWriter(t.Context(), io.Discard, tenantA)
	if err != nil {
		t.Fatal(err)
	}
	w.(*writer).m.next = maxChunks - 1
	if _, err := w.Write(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 17)); err == nil || !strings.Contains(err.Error(), "4294967296 chunks") {
		t.Errorf("the last chunk was followed by another: %v", err)
	}

	// A reader takes the last one, and no other, though somebody with the key sealed it.
	m, _, err := s.begin(t.Context(), tenantA, 0)
	if err != nil {
		t.Fatal(err)
	}
	for next, want := range map[uint64]error{maxChunks - 1: nil, maxChunks: ErrTampered} {
		nonce := append(binary.BigEndian.AppendUint64([]byte{0, 0, 0}, next), 1)
		m.next = next
		if _, err := m.open(nil, m.aead.Seal(nil, nonce, []byte("x"), nil), true); !errors.Is(err, want) {
			t.Errorf("chunk %d: %v, want %v", next, err, want)
		}
	}
}

// Nothing that fmt, slog or JSON shows of the package's values has a data key or data.
func TestNothingSecretIsPrinted(t *testing.T) {
	fake := &fakeKMS{}
	// fmt may follow one pointer, to the client, which here has the data keys.
	s := newSealer(t, &struct{ KMS }{fake}, alias, Options{Cache: Cache{MaxAge: 1 << 40, MaxMessages: 100, MaxBytes: 1 << 30, MaxEntries: 10}})
	plaintext := bytes.Repeat([]byte("data"), 10)
	sealed := seal(t, s, plaintext, tenantA)
	var stream bytes.Buffer
	w, err := s.NewWriter(t.Context(), &stream, tenantA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plaintext); err != nil {
		t.Fatal(err)
	}
	r, err := s.NewReader(t.Context(), bytes.NewReader(sealed), tenantA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	h, err := ReadHeader(bytes.NewReader(sealed))
	if err != nil {
		t.Fatal(err)
	}
	_, failed := s.Open(t.Context(), sealed[:len(sealed)-1], tenantA)
	secrets := [][]byte{plaintext}
	for _, k := range fake.keys {
		secrets = append(secrets, k.secret)
	}
	if len(secrets) != 2 || len(s.keys.entries) != 2 {
		t.Fatalf("%d data keys, %d in the cache", len(secrets)-1, len(s.keys.entries))
	}
	// fmt calls no methods of what is in fields that are not exported.
	type holder struct {
		s  *Sealer
		v  Sealer
		w  io.WriteCloser
		r  io.Reader
		h  *Header
		in map[string]any
	}
	held := holder{s, *s, w, r, h, map[string]any{"s": s, "w": w, "r": r}}
	// A Sealer itself does not show its client, whose credentials these could be.
	open := newSealer(t, fake, alias, Options{})
	for _, v := range []any{open, *open, s, *s, w, r, h, *h, held, &held, []any{held, &held}, s.Stats(), Options{}, Cache{}, Rules{}, failed} {
		shown := map[string]string{}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			shown[verb] = fmt.Sprintf(verb, v)
		}
		var text, lines strings.Builder
		slog.New(slog.NewTextHandler(&text, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&lines, nil)).Info("x", "v", v)
		j, _ := json.Marshal(v)
		shown["slog"], shown["slog, JSON"], shown["JSON"] = text.String(), lines.String(), string(j)
		for how, shown := range shown {
			for _, secret := range secrets {
				part := secret[4:12]
				for _, form := range []string{string(part), fmt.Sprintf("%x", part), fmt.Sprintf("%X", part), strings.Trim(fmt.Sprintf("%d", part), "[]"), fmt.Sprintf("%#v", part)[7:30]} {
					if strings.Contains(shown, form) {
						t.Errorf("%T, %s: shows %q", v, how, form)
					}
				}
			}
		}
	}
}
