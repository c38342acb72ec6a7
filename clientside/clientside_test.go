package clientside

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"

	"github.com/cmkeeper/cmkeeper/envelope"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

const account = "111122223333"

var aboutTenant = map[string]string{"tenant": "a", "purpose": "in: \"#quotes' and ünïcode"}

// cloud is an account with the KMS keys that data move between.
type cloud struct {
	*kms.Client
	server            *localaws.Server
	old, other, fresh string // ARNs of keys
	third             string
	alias             string // of fresh
}

func newCloud(t testing.TB) *cloud {
	t.Helper()
	server := localaws.New(localaws.Options{Account: account, Region: "eu-west-1"})
	t.Cleanup(server.Close)
	c := &cloud{Client: kms.NewFromConfig(inprocess.Config(server, "eu-west-1", "app")), server: server}
	for _, key := range []*string{&c.old, &c.other, &c.fresh, &c.third} {
		out, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		*key = *out.KeyMetadata.Arn
	}
	c.alias = "arn:aws:kms:eu-west-1:" + account + ":alias/app"
	if _, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/app"), TargetKeyId: &c.fresh}); err != nil {
		t.Fatal(err)
	}
	return c
}

// wrap returns a data key under a KMS key.
func (c *cloud) wrap(t testing.TB, key string, about map[string]string) []byte {
	t.Helper()
	out, err := c.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, NumberOfBytes: aws.Int32(32), EncryptionContext: about})
	if err != nil {
		t.Fatal(err)
	}
	return out.CiphertextBlob
}

// secret returns what is wrapped, whatever key it is under.
func (c *cloud) secret(t testing.TB, k Key, about map[string]string) (plaintext, key string) {
	t.Helper()
	if !k.ContextUnknown {
		about = k.Context
	}
	out, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: k.Wrapped, EncryptionContext: about})
	if err != nil {
		t.Fatal(err)
	}
	return string(out.Plaintext), *out.KeyId
}

func (c *cloud) move() Move {
	return Move{From: []string{c.other, c.old}, To: c.fresh, Aliases: []string{c.alias}}
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func whole(body []byte) Found { return ByContent(body, int64(len(body))) }

// file returns a file of testdata with its placeholders replaced.
func file(t testing.TB, name string, values map[string]string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var pairs []string
	for from, to := range values {
		pairs = append(pairs, from, to)
	}
	return []byte(strings.NewReplacer(pairs...).Replace(string(text)))
}

// sopsFiles are files with two entries under the old key, one of which has a context, one
// under a key that nobody moves, and entries of other services.
func sopsFiles(t testing.TB, c *cloud, foreign string) map[string][]byte {
	out := map[string][]byte{}
	values := map[string]string{
		"WRAPPED1": b64(c.wrap(t, c.old, nil)), "WRAPPED2": b64(c.wrap(t, c.old, aboutTenant)),
		"FOREIGN": b64(c.wrap(t, foreign, nil)), "OLD": c.old, "ALIAS": c.alias, "OTHER": foreign,
	}
	names, err := filepath.Glob("testdata/sops*")
	if err != nil || len(names) < 8 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		name = filepath.Base(name)
		out[name] = file(t, name, values)
		out[name+", CRLF"] = []byte(strings.ReplaceAll(string(out[name]), "\n", "\r\n"))
	}
	return out
}

func TestSOPSFiles(t *testing.T) {
	c := newCloud(t)
	m := c.move()
	m.From = []string{c.old}
	for name, body := range sopsFiles(t, c, c.other) {
		t.Run(name, func(t *testing.T) {
			f := whole(body)
			if f.Format != SOPS || !f.Sure || f.Partial || f.Place != InBody || f.Refusal != "" || len(f.Keys)%3 != 0 || len(f.Keys) == 0 {
				t.Fatalf("found %+v", f)
			}
			for i, k := range f.Keys {
				wantContext := []map[string]string{{}, aboutTenant, {}}[i%3]
				wantLabel := []string{c.old, c.alias, c.other}[i%3]
				if diff := cmp.Diff(wantContext, k.Context); diff != "" || k.Label != wantLabel {
					t.Errorf("key %d: label %s, context %s", i, k.Label, diff)
				}
			}
			calls := c.server.Requests("kms", "ReEncrypt")
			out, err := f.Rewrap(t.Context(), c, m)
			if err != nil || out.Moved != len(f.Keys)/3*2 || out.Metadata != nil {
				t.Fatalf("moved %d, %v", out.Moved, err)
			}
			if calls = c.server.Requests("kms", "ReEncrypt") - calls; calls != 3 {
				t.Errorf("%d calls of KMS", calls) // one for each data key, also where the label names a third one
			}
			want := string(body)
			for i, k := range out.Keys {
				before, _ := c.secret(t, f.Keys[i], nil)
				after, key := c.secret(t, k, nil)
				if wantKey := []string{c.fresh, c.fresh, c.other}[i%3]; before != after || key != wantKey {
					t.Errorf("key %d is under %s and has changed: %t", i, key, before != after)
				}
				want = strings.ReplaceAll(want, b64(f.Keys[i].Wrapped), b64(k.Wrapped))
			}
			want = strings.ReplaceAll(want, c.old, c.fresh)
			if diff := cmp.Diff(want, string(out.Body)); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(name, "yaml") {
				sameYAML(t, body, f, out)
			}
			again, err := whole(out.Body).Rewrap(t.Context(), c, m)
			if err != nil || again.Moved != 0 || again.Body != nil {
				t.Errorf("the second time %d are moved, %v", again.Moved, err)
			}
		})
	}
}

// sameYAML checks with another reader that all is the same but wrapped keys and labels.
func sameYAML(t *testing.T, body []byte, f Found, out Rewrapped) {
	t.Helper()
	moved := map[[2]string]bool{}
	for i, k := range f.Keys {
		moved[[2]string{b64(k.Wrapped), b64(out.Keys[i].Wrapped)}] = true
		moved[[2]string{k.Label, out.Keys[i].Label}] = true
	}
	changed := 0
	before, after := yaml.NewDecoder(bytes.NewReader(body)), yaml.NewDecoder(bytes.NewReader(out.Body))
	for {
		var a, b yaml.Node
		if err := before.Decode(&a); errors.Is(err, io.EOF) {
			break
		} else if err := errors.Join(err, after.Decode(&b)); err != nil {
			t.Fatal(err)
		}
		if !sameNode(&a, &b, moved, &changed) {
			t.Errorf("%q differs from %q", out.Body, body)
		}
	}
	if changed == 0 {
		t.Errorf("in %q nothing has changed", body)
	}
}

func sameNode(a, b *yaml.Node, moved map[[2]string]bool, changed *int) bool {
	if a.Value != b.Value {
		*changed++
		if !moved[[2]string{a.Value, b.Value}] {
			return false
		}
	}
	return a.Kind == b.Kind && a.Tag == b.Tag && a.Style == b.Style && a.Anchor == b.Anchor && a.Line == b.Line &&
		a.HeadComment == b.HeadComment && a.LineComment == b.LineComment && a.FootComment == b.FootComment &&
		slices.EqualFunc(a.Content, b.Content, func(a, b *yaml.Node) bool { return sameNode(a, b, moved, changed) })
}

func TestRewrap(t *testing.T) {
	c := newCloud(t)
	aboutCEK := map[string]string{"aws:x-amz-cek-alg": "AES/GCM/NoPadding", "tenant": "ü"}
	const matdesc = `{"aws:x-amz-cek-alg":"AES/GCM/NoPadding","tenant":"\u00fc"}`
	legacy := map[string]string{"kms_cmk_id": c.old}
	v2 := map[string]string{
		"x-amz-key-v2": b64(c.wrap(t, c.old, aboutCEK)), "x-amz-iv": "aXY=", "x-amz-matdesc": matdesc, "x-amz-wrap-alg": "kms+context",
		"x-amz-cek-alg": "AES/GCM/NoPadding", "x-amz-tag-len": "128", "x-amz-unencrypted-content-length": "5", "mine": "too",
	}
	v3 := map[string]string{
		"x-amz-3": b64(c.wrap(t, c.old, aboutCEK)), "x-amz-c": "115", "x-amz-w": "12", "x-amz-t": matdesc, "x-amz-m": "", "x-amz-d": "ZA==", "x-amz-i": "aQ==",
	}
	kmsV1 := map[string]string{
		"x-amz-key-v2": b64(c.wrap(t, c.old, legacy)), "x-amz-iv": "aXY=", "x-amz-matdesc": `{"kms_cmk_id":"` + c.old + `"}`, "x-amz-wrap-alg": "kms",
	}
	metadata := func(m map[string]string) func() (Found, error) {
		return func() (Found, error) { return ByMetadata(m) }
	}
	instruction := func(text string) func() (Found, error) {
		return func() (Found, error) { return ByInstructionFile([]byte(text)) }
	}
	content := func(body []byte) func() (Found, error) {
		return func() (Found, error) { return whole(body), nil }
	}
	sealer, err := envelope.New(c, c.old, envelope.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sealer.Seal(t.Context(), []byte(strings.Repeat("data", 1000)), aboutTenant)
	if err != nil {
		t.Fatal(err)
	}
	dek := c.wrap(t, c.old, nil)
	tink := append(binary.BigEndian.AppendUint32(nil, uint32(len(dek))), dek...)
	tink = append(tink, "the ciphertext, which has some bytes"...)
	for name, tc := range map[string]struct {
		find   func() (Found, error)
		format Format
		place  Place
		sure   bool
		label  string
		about  map[string]string
		stays  bool // the label
	}{
		"V2 in metadata":            {find: metadata(v2), format: S3ClientV2, place: InMetadata, sure: true, about: aboutCEK},
		"V3 in metadata":            {find: metadata(v3), format: S3ClientV3, place: InMetadata, sure: true, about: aboutCEK},
		"legacy kms":                {find: metadata(kmsV1), format: S3ClientV2, place: InMetadata, sure: true, about: legacy, label: c.old, stays: true},
		"V2 in an instruction file": {find: instruction(" {\r\n\t" + `"x-amz-key-v2" : "` + strings.ReplaceAll(v2["x-amz-key-v2"], "/", `\/`) + `",` + "\n" + `"x-amz-iv":"aXY=","x-amz-matdesc":"{}","x-amz-tag-len":128,"x-amz-wrap-alg":"kms+context","a":{"x-amz-key-v2":"x"}}` + "\n"), format: S3ClientV2, place: InInstructionFile, sure: true, about: nil},
		"V3 in an instruction file": {find: instruction(`{"x-amz-3":"` + v3["x-amz-3"] + `","x-amz-w":"12","x-amz-t":` + quoted(matdesc) + `}`), format: S3ClientV3, place: InInstructionFile, sure: true, about: aboutCEK},
		"cmkeeper's own":            {find: content(sealed), format: Envelope, place: InBody, sure: true, about: aboutTenant, label: c.old},
		"Tink":                      {find: content(tink), format: Tink, place: InBody},
		"Tink with a key's prefix":  {find: content(append([]byte{1, 2, 3, 4, 5}, tink...)), format: Tink, place: InBody},
		"Tink keyset":               {find: content([]byte(`{"encryptedKeyset": "` + b64(c.wrap(t, c.old, aboutTenant)) + `"` + keysetInfo + "}")), format: TinkKeyset, place: InBody, sure: true},
		"Tink keyset in binary":     {find: content([]byte(protoBytes("\x12", string(c.wrap(t, c.old, aboutTenant))))), format: TinkKeyset, place: InBody},
		"Tink keyset by envelope":   {find: content([]byte(protoBytes("\x12", string(tink)))), format: TinkKeyset, place: InBody},
		"KMS ciphertext":            {find: content(c.wrap(t, c.old, aboutTenant)), format: KMSCiphertext, place: InBody},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := tc.find()
			if err != nil {
				t.Fatal(err)
			}
			if f.Format != tc.format || f.Place != tc.place || f.Sure != tc.sure || f.Refusal != "" || f.Partial || len(f.Keys) != 1 {
				t.Fatalf("found %+v", f)
			}
			k := f.Keys[0]
			if name == "V2 in an instruction file" { // the context there is empty, so that nothing opens it
				k.Context = aboutCEK
				f.Keys[0].Context = aboutCEK
				f.again = nil
			} else if diff := cmp.Diff(tc.about, k.Context, cmpopts.EquateEmpty()); diff != "" || k.Label != tc.label || k.LabelInContext != tc.stays {
				t.Fatalf("label %q, context %s", k.Label, diff)
			}
			if f.again == nil && f.Place == InInstructionFile {
				f.again = func(b []byte) (Found, error) {
					g, err := ByInstructionFile(b)
					if err == nil {
						g.Keys[0].Context = aboutCEK
					}
					return g, err
				}
			}
			m := c.move()
			m.Context = aboutTenant
			before, _ := c.secret(t, k, aboutTenant)
			out, err := f.Rewrap(t.Context(), c, m)
			if err != nil || out.Moved != 1 {
				t.Fatalf("moved %d, %v", out.Moved, err)
			}
			after, key := c.secret(t, out.Keys[0], aboutTenant)
			if before != after || key != c.fresh {
				t.Errorf("is under %s, changed: %t", key, before != after)
			}
			want := tc.label
			if want != "" && !tc.stays {
				want = c.fresh
			}
			if out.Keys[0].Label != want {
				t.Errorf("label %q", out.Keys[0].Label)
			}
			if f.Place == InMetadata {
				want := maps.Clone(f.metadata)
				want[f.name] = b64(out.Keys[0].Wrapped)
				if diff := cmp.Diff(want, out.Metadata); diff != "" || out.Body != nil {
					t.Error(diff)
				}
				return
			}
			wantBody := string(f.body)
			for from, to := range map[string]string{
				string(k.Wrapped): string(out.Keys[0].Wrapped), b64(k.Wrapped): b64(out.Keys[0].Wrapped), c.old: c.fresh,
				strings.ReplaceAll(b64(k.Wrapped), "/", `\/`): b64(out.Keys[0].Wrapped),
			} {
				wantBody = strings.ReplaceAll(wantBody, from, to)
			}
			if wantBody != string(out.Body) || out.Metadata != nil {
				t.Errorf("is\n%q\nwant\n%q", out.Body, wantBody)
			}
			// The old key alone is left out: the data key is under none of what is moved from.
			m.From = []string{c.other}
			if out, err := f.Rewrap(t.Context(), c, m); err != nil || out.Moved != 0 || out.Body != nil {
				t.Errorf("from another key: moved %d, %v", out.Moved, err)
			}
		})
	}
}

func quoted(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }

// fakeKMS answers what it is told.
type fakeKMS func(*kms.ReEncryptInput) (*kms.ReEncryptOutput, error)

func (f fakeKMS) ReEncrypt(_ context.Context, in *kms.ReEncryptInput, _ ...func(*kms.Options)) (*kms.ReEncryptOutput, error) {
	return f(in)
}

func TestRewrapErrors(t *testing.T) {
	c := newCloud(t)
	blob := c.wrap(t, c.old, nil)
	f := whole(blob)
	good := c.move()
	answer := func(from, to string, blob []byte) fakeKMS {
		return func(*kms.ReEncryptInput) (*kms.ReEncryptOutput, error) {
			return &kms.ReEncryptOutput{SourceKeyId: &from, KeyId: &to, CiphertextBlob: blob}, nil
		}
	}
	large := append([]byte{}, make([]byte, 4097)...)
	tink := whole(append(append(binary.BigEndian.AppendUint32(nil, uint32(len(blob))), blob...), "data"...))
	for name, tc := range map[string]struct {
		found  Found
		client KMS
		move   Move
		want   string
	}{
		"nothing to move from":       {found: f, client: c, move: Move{To: c.fresh}, want: "From is empty"},
		"all that is wrong":          {found: f, client: c, move: Move{From: []string{"alias/app", c.old}, To: "x"}, want: `From has "alias/app": give ARNs of KMS keys; To is "x"`},
		"onto itself":                {found: f, client: c, move: Move{From: []string{c.fresh}, To: c.fresh}, want: "in both From and To"},
		"a keyset's context unknown": {found: whole([]byte(protoBytes("\x12", string(c.wrap(t, c.old, aboutTenant))))), client: c, move: good, want: "InvalidCiphertext"},
		"another context":            {found: f, client: c, move: Move{From: good.From, To: c.fresh, Context: aboutTenant}, want: "InvalidCiphertext"},
		"refused":                    {found: Found{Refusal: "reason"}, client: c, move: good, want: "cannot be re-wrapped: reason"},
		"part of it":                 {found: ByContent(append([]byte("ENC[AES256_GCM,data:"), blob...), 10_000), client: c, move: good, want: "only the beginning"},
		"no instruction file":        {found: Found{Partial: true, Place: InInstructionFile}, client: c, move: good, want: "ByInstructionFile"},
		"KMS moves it elsewhere":     {found: f, client: answer(c.other, c.old, blob), move: good, want: "asked was arn:aws:kms"},
		"KMS returns nothing":        {found: f, client: answer(c.other, c.fresh, nil), move: good, want: "KMS returned 0 bytes"},
		"too long for Tink":          {found: tink, client: answer(c.other, c.fresh, large), move: good, want: "Tink reads 4096 at most"},
		"not to be recognised again": {found: f, client: answer(c.other, c.fresh, []byte("odd")), move: good, want: "not to be written"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.found.Rewrap(t.Context(), tc.client, tc.move)
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, ErrRefused) != (name == "refused") {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// A key of From that cannot be used does not keep what is under another one of them.
func TestRewrapGoesOnToTheNextKey(t *testing.T) {
	c := newCloud(t)
	f := whole(c.wrap(t, c.old, nil))
	if _, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &c.other}); err != nil {
		t.Fatal(err)
	}
	if out, err := f.Rewrap(t.Context(), c, c.move()); err != nil || out.Moved != 1 {
		t.Errorf("moved %d, %v", out.Moved, err)
	}
	f = whole(c.wrap(t, c.fresh, nil)) // moved long ago
	if out, err := f.Rewrap(t.Context(), c, c.move()); err != nil || out.Moved != 0 {
		t.Errorf("moved %d, %v", out.Moved, err)
	}
	f = whole(c.wrap(t, c.third, nil))
	if out, err := f.Rewrap(t.Context(), c, c.move()); err == nil || !strings.Contains(err.Error(), "DisabledException") {
		t.Errorf("moved %d, %v", out.Moved, err)
	}
}

// Nothing authenticates a label: one that names another key hides nothing.
func TestALabelHidesNothing(t *testing.T) {
	c := newCloud(t)
	text := "a: ENC[AES256_GCM,data:QQ==,iv:QQ==,tag:QQ==,type:str]\n" + strings.Replace(tail, "QUJD", b64(c.wrap(t, c.old, nil)), 1)
	for name, tc := range map[string]struct {
		label string
		moved int
	}{
		"the right one":                    {c.old, 1},
		"a third one":                      {c.third, 1},
		"the one to move to":               {c.fresh, 1},
		"one of another Region: believed":  {strings.Replace(c.old, "eu-west-1", "us-east-1", 1), 0},
		"one of another account: believed": {strings.Replace(c.old, account, "444455556666", 1), 0},
	} {
		f := whole([]byte(strings.Replace(text, "arn:aws:kms:eu-west-1:111122223333:key/a", tc.label, 1)))
		out, err := f.Rewrap(t.Context(), c, c.move())
		if err != nil || out.Moved != tc.moved {
			t.Errorf("%s: moved %d, %v", name, out.Moved, err)
		}
		under, err := f.Under(t.Context(), c, []string{c.fresh, c.old}, nil)
		if err != nil || under != (tc.moved == 1) {
			t.Errorf("%s: under the old key: %t, %v", name, under, err)
		}
	}
}

func TestUnder(t *testing.T) {
	c := newCloud(t)
	f := whole(c.wrap(t, c.old, aboutTenant))
	for name, tc := range map[string]struct {
		keys  []string
		about map[string]string
		under bool
		wrong string
	}{
		"under one of them": {[]string{c.third, c.old}, aboutTenant, true, "<nil>"},
		"under none":        {[]string{c.third, c.fresh}, aboutTenant, false, "<nil>"},
		"another context":   {[]string{c.old}, nil, false, "InvalidCiphertextException"},
	} {
		under, err := f.Under(t.Context(), c, tc.keys, tc.about)
		if under != tc.under || !strings.Contains(fmt.Sprint(err), tc.wrong) {
			t.Errorf("%s: %t, %v", name, under, err)
		}
	}
}

func TestByMetadata(t *testing.T) {
	for name, tc := range map[string]struct {
		metadata map[string]string
		want     Found
		wrong    string
	}{
		"nothing":              {metadata: map[string]string{"a": "b", "x-amz-iv": "x", "x-amz-matdesc": "{}"}},
		"V1":                   {metadata: map[string]string{"x-amz-key": "x", "x-amz-iv": "x"}, want: Found{Format: S3ClientV1, Sure: true, Place: InMetadata, NotKMS: true, Refusal: "its data key is wrapped by a key of the application's own, not by KMS"}},
		"raw":                  {metadata: map[string]string{"x-amz-key-v2": "x", "x-amz-iv": "x", "x-amz-wrap-alg": "RSA-OAEP-SHA1"}, want: Found{Format: S3ClientV2, Sure: true, Place: InMetadata, NotKMS: true, Refusal: "its data key is wrapped by a key of the application's own (RSA-OAEP-SHA1), not by KMS"}},
		"raw V3":               {metadata: map[string]string{"x-amz-3": "x", "x-amz-d": "x", "x-amz-i": "x", "x-amz-w": "02"}, want: Found{Format: S3ClientV3, Sure: true, Place: InMetadata, NotKMS: true, Refusal: "its data key is wrapped by a key of the application's own (AES/GCM), not by KMS"}},
		"unknown":              {metadata: map[string]string{"x-amz-3": "x", "x-amz-d": "x", "x-amz-i": "x", "x-amz-w": "99"}, want: Found{Format: S3ClientV3, Sure: true, Place: InMetadata, Refusal: `its data key is wrapped by an algorithm that is not known ("99")`}},
		"encoded by S3":        {metadata: map[string]string{"x-amz-3": "x", "x-amz-d": "x", "x-amz-i": "x", "x-amz-w": "12", "x-amz-t": "=?UTF-8?Q?x?="}, want: Found{Format: S3ClientV3, Sure: true, Place: InMetadata, Refusal: "its encryption context has other characters than ASCII, which S3 does not show as they were stored"}},
		"in instruction file":  {metadata: map[string]string{"x-amz-c": "115", "x-amz-d": "x", "x-amz-i": "x"}, want: Found{Format: S3ClientV3, Sure: true, Place: InInstructionFile, Partial: true}},
		"mixed":                {metadata: map[string]string{"x-amz-key-v2": "x", "x-amz-3": "x", "x-amz-iv": "x"}, wrong: "x-amz-key-v2 and x-amz-3 exclude each other"},
		"mixed old":            {metadata: map[string]string{"x-amz-key": "x", "x-amz-key-v2": "x", "x-amz-iv": "x"}, wrong: "x-amz-key and x-amz-key-v2 exclude each other"},
		"no iv":                {metadata: map[string]string{"x-amz-key-v2": "x"}, wrong: "x-amz-key-v2 is there without x-amz-iv"},
		"no commitment":        {metadata: map[string]string{"x-amz-3": "eA==", "x-amz-i": "x", "x-amz-w": "12"}, wrong: "x-amz-3 is there without x-amz-d"},
		"no base64":            {metadata: map[string]string{"x-amz-key-v2": "!", "x-amz-iv": "x", "x-amz-wrap-alg": "kms+context"}, wrong: "x-amz-key-v2: the wrapped key is not base64"},
		"no key":               {metadata: map[string]string{"x-amz-key-v2": "", "x-amz-iv": "x", "x-amz-wrap-alg": "kms+context"}, wrong: "the wrapped key is empty"},
		"long key":             {metadata: map[string]string{"x-amz-key-v2": strings.Repeat("A", 9000), "x-amz-iv": "x", "x-amz-wrap-alg": "kms+context"}, wrong: "9000 characters"},
		"context of numbers":   {metadata: map[string]string{"x-amz-key-v2": "eA==", "x-amz-iv": "x", "x-amz-wrap-alg": "kms+context", "x-amz-matdesc": `{"a":1}`}, wrong: `the encryption context: "a" is no string`},
		"context given twice":  {metadata: map[string]string{"x-amz-key-v2": "eA==", "x-amz-iv": "x", "x-amz-wrap-alg": "kms+context", "x-amz-matdesc": `{"a":"b","a":"c"}`}, wrong: `"a" twice`},
		"context of no object": {metadata: map[string]string{"x-amz-key-v2": "eA==", "x-amz-iv": "x", "x-amz-wrap-alg": "kms+context", "x-amz-matdesc": `["a"]`}, wrong: "not a JSON object"},
		"context cut off":      {metadata: map[string]string{"x-amz-key-v2": "eA==", "x-amz-iv": "x", "x-amz-wrap-alg": "kms+context", "x-amz-matdesc": `{"a":`}, wrong: "not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ByMetadata(tc.metadata)
			if fmt.Sprint(err) != "<nil>" && tc.wrong == "" || tc.wrong != "" && !strings.Contains(fmt.Sprint(err), tc.wrong) {
				t.Errorf("%v, want %q", err, tc.wrong)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreUnexported(Found{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestByInstructionFileErrors(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "nothing of the S3 Encryption Client's",
		`{"x-amz-3":"eA==","x-amz-w":"12","x-amz-d":"x"}`:                                  "x-amz-d, which belongs into the object's metadata",
		`{"x-amz-3":"eA==","x-amz-key-v2":"eA=="}`:                                         "exclude each other",
		`{"x-amz-key-v2":"eA==","x-amz-key-v2":"eA==","x-amz-iv":"x"}`:                     "twice",
		`{"x-amz-key-v2":"eA==","x-amz-iv":"x"`:                                            "not JSON",
		`["x-amz-key-v2"]`:                                                                 "not a JSON object",
		`{"x-amz-key-v2":"` + strings.Repeat("A", 70_000) + `"}`:                           "70019 bytes",
		`{"x-amz-key-v2":"!","x-amz-iv":"x","x-amz-wrap-alg":"kms","x-amz-matdesc":"{}"}`:  "not base64",
		`{"x-amz-key-v2":{"a":"b"},"x-amz-iv":"x","x-amz-wrap-alg":"kms","x-amz-3":false}`: "nothing of the S3 Encryption Client's",
	} {
		if _, err := ByInstructionFile([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
}
