package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cmkeeper/cmkeeper/clientside"
	"github.com/cmkeeper/cmkeeper/envelope"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
)

// writeTemp writes a file into the working folder.
func writeTemp(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// endedBy is a reader whose end comes with the end of a context.
type endedBy struct{ end func() }

func (r endedBy) Read([]byte) (int, error) {
	r.end()
	return 0, io.EOF
}

// TestInterrupted: what comes when the process is told to stop is not taken for the end.
func TestInterrupted(t *testing.T) {
	t.Chdir(t.TempDir())
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("stopped")
	in, end := meter(ctx, io.Discard, endedBy{func() { cancel(why) }}, -1)
	defer end()
	for range 2 {
		if err := replaceFile("out", func(w io.Writer) error { _, err := io.Copy(w, in); return err }); !errors.Is(err, why) {
			t.Errorf("it ends with %v", err)
		}
	}
	writeTemp(t, "in", nil)
	w := must(newWork(&process{}, []string{"in", "out"}, false))(t)
	if err := w.run(ctx, &process{stderr: io.Discard}, func(io.Writer, io.Reader) error { return nil }); !errors.Is(err, why) {
		t.Errorf("it ends with %v", err)
	}
	expectFiles(t, "in")
}

// expectFiles fails the test unless the working folder has just these files.
func expectFiles(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, f := range must(os.ReadDir("."))(t) {
		got = append(got, f.Name())
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), got); diff != "" {
		t.Errorf("files: %s", diff)
	}
}

// fromStandardInput has the content as standard input.
func fromStandardInput(t *testing.T, content []byte) {
	t.Helper()
	r, w := must2(os.Pipe())(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = w.Write(content) // whoever reads may stop
		_ = w.Close()
	}()
	before := os.Stdin
	os.Stdin = r
	t.Cleanup(func() {
		os.Stdin = before
		_ = r.Close()
		<-done
	})
}

func must2[A, B any](a A, b B, err error) func(*testing.T) (A, B) {
	return func(t *testing.T) (A, B) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
}

// expectCommand runs a command of envelope and fails the test unless it ends with the code
// and says the text on standard output or error.
func (a *account) expectCommand(code int, want string, args ...string) string {
	a.t.Helper()
	got, out, errs := a.command(append([]string{"envelope"}, args...)...)
	if got != code || !strings.Contains(out+errs, want) {
		a.t.Errorf("%q: exit code %d, no %q in:\n%s%s", args, got, want, out, errs)
	}
	return out
}

const ctxA = "tenant=a,purpose=backups"

func TestSealAndOpen(t *testing.T) {
	a := newAccount(t)
	a.enter()
	key := a.newKey(appAlias)
	t.Chdir(t.TempDir())
	data := bytes.Repeat([]byte("0123456789abcdef"), 20_000) // several chunks
	writeTemp(t, "in", data)
	writeTemp(t, "rules.json", []byte(`{"required":["tenant"],"values":{"purpose":["backups"]}}`))

	a.expectCommand(exitOK, "", "seal", "--key", appAlias, "--context", ctxA, "--rules", "rules.json", "in", "sealed")
	if mode := must(os.Stat("sealed"))(t).Mode(); mode != 0o600 {
		t.Errorf("the mode is %v", mode)
	}
	a.expectCommand(exitOK, "", "open", "--context", "purpose=backups", "--context", "tenant=a", "--rules", "rules.json", "sealed", "out")
	if !bytes.Equal(must(os.ReadFile("out"))(t), data) {
		t.Error("it opens as something else")
	}
	// Over standard input and output.
	fromStandardInput(t, data)
	sealed := a.expectCommand(exitOK, "", "seal", "--key", key, "--context", ctxA, "-")
	fromStandardInput(t, []byte(sealed))
	if out := a.expectCommand(exitOK, "", "open", "--context", ctxA, "-", "-"); out != string(data) {
		t.Error("it opens as something else from standard input")
	}
	if _, out, errs := a.command("envelope", "open", "--any-context", "sealed"); out != string(data) || errs != "encryption context: purpose=backups, tenant=a\n" {
		t.Errorf("--any-context: %s", errs)
	}
	a.expectCommand(exitOK, "", "open", "--context", ctxA, "--trust", key, "--force", "sealed", "out")
	a.expectCommand(exitOK, "", "open", "--context", ctxA, "--trust", arn.Account(key), "--force", "sealed", "out")

	a.expectCommand(exitOK, "", "open", "--context", ctxA, "--trust", "111122223333", "--trust", key, "--force", "sealed", "out")
	h := must(envelope.ReadHeader(strings.NewReader(sealed)))(t)
	writeTemp(t, "stranger", append(must(h.Rewrapped(strings.Replace(key, arn.Account(key), "111122223333", 1), h.WrappedKey))(t), sealed[h.Size:]...))

	tampered := bytes.Clone(must(os.ReadFile("sealed"))(t))
	tampered[len(tampered)-1] ^= 1
	writeTemp(t, "tampered", tampered)
	cut := must(os.ReadFile("sealed"))(t)
	writeTemp(t, "cut", cut[:len(cut)-100_000])
	newer := bytes.Clone(cut)
	newer[7] = 2
	writeTemp(t, "newer", newer)
	for _, args := range [][]string{{"seal", "--key", appAlias}, {"open"}} {
		a.expectCommand(exitError, "out exists: name another file, or replace it with --force", append(args, "--context", ctxA, "sealed", "out")...)
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no context":         {[]string{"sealed"}, exitUsage, "context any-context"},
		"context and any":    {[]string{"--context", ctxA, "--any-context", "sealed"}, exitUsage, "context any-context"},
		"no attribute":       {[]string{"--context", "tenant", "sealed"}, exitUsage, `"tenant" is not NAME=VALUE`},
		"attribute twice":    {[]string{"--context", "a=b,a=c", "sealed"}, exitUsage, `"a" twice`},
		"against the rules":  {[]string{"--context", "purpose=x", "--rules", "rules.json", "sealed"}, exitUsage, "tenant"},
		"no rules":           {[]string{"--context", ctxA, "--rules", "in", "sealed"}, exitUsage, "--rules in: "},
		"any, against rules": {[]string{"--any-context", "--rules", "rules2.json", "sealed"}, exitError, "region"},
		"trust nobody":       {[]string{"--context", ctxA, "--trust", "me", "sealed"}, exitUsage, "--trust: "},
		"wrong context":      {[]string{"--context", "tenant=b", "sealed", "none"}, exitError, "shows its context; if that is not the one you expect"},
		"not trusted":        {[]string{"--context", ctxA, "--trust", "111122223333", "sealed", "none"}, exitError, "with --trust"},
		"stranger's key":     {[]string{"--context", ctxA, "stranger", "none"}, exitError, "with --trust"},
		"no envelope":        {[]string{"--context", ctxA, "in", "none"}, exitError, "in: not an envelope; cmkeeper envelope inspect FILE says what it is"},
		"newer":              {[]string{"--context", ctxA, "newer", "none"}, exitError, "use a newer cmkeeper"},
		"tampered":           {[]string{"--context", ctxA, "tampered", "none"}, exitError, "do not use it: take the file from a backup"},
		"cut":                {[]string{"--context", ctxA, "cut", "none"}, exitError, "tampered with: chunk 3"},
		"cut, to a pipe":     {[]string{"--context", ctxA, "cut"}, exitError, "the 196608 bytes that were written to standard output are only a beginning"},
		"no file":            {[]string{"--context", ctxA, "missing", "none"}, exitError, "no such file"},
		"a folder":           {[]string{"--context", ctxA, ".", "none"}, exitError, ". is a directory"},
		"to a folder":        {[]string{"--context", ctxA, "--force", "sealed", "."}, exitUsage, "is not a file that can be replaced"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "any, against rules" {
				writeTemp(t, "rules2.json", []byte(`{"required":["region"]}`))
			}
			if out := a.expectCommand(tt.code, tt.want, append([]string{"open"}, tt.args...)...); !strings.HasPrefix(string(data), out) {
				t.Error("it wrote what was not sealed")
			}
		})
	}
	a.expectCommand(exitError, "an alias begins with alias/", "seal", "--key", "app", "--context", ctxA, "in", "none")
	a.deny(administrator, "kms:GenerateDataKey")
	a.expectCommand(exitError, "this takes kms:GenerateDataKey on "+key, "seal", "--key", key, "--context", ctxA, "in", "none")
	a.deny(administrator, "kms:Decrypt")
	a.expectCommand(exitError, "this takes kms:Decrypt on "+key, "open", "--context", ctxA, "sealed", "none")
	a.allowAll(administrator)
	must(a.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}))(t)
	a.expectCommand(exitError, "enable the key or cancel its deletion", "open", "--context", ctxA, "sealed", "none")
	a.expectCommand(exitError, "enable the key or cancel its deletion", "seal", "--key", appAlias, "--context", ctxA, "in", "none")
	// Nothing is left of what failed.
	expectFiles(t, "in", "rules.json", "rules2.json", "sealed", "out", "tampered", "cut", "newer", "stranger")
}

func TestParseContext(t *testing.T) {
	for _, tt := range []struct {
		given []string
		want  map[string]string
	}{
		{[]string{"a=b,c=d", "e=f"}, map[string]string{"a": "b", "c": "d", "e": "f"}},
		{[]string{`"a=b,c",d=e=f`}, map[string]string{"a": "b,c", "d": "e=f"}},
		{[]string{"a= b "}, map[string]string{"a": " b "}},
		{[]string{"a=b\nc=d"}, nil},
		{[]string{""}, nil},
		{[]string{"=b"}, nil},
		{[]string{"a="}, nil},
		{[]string{`a="b"`}, nil},
		{[]string{"a=b", "a=b"}, nil},
	} {
		got, err := parseContext(tt.given)
		if (err != nil) != (tt.want == nil) || err == nil && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %v, %v", tt.given, got, err)
		}
	}
}

// writeSOPS writes what SOPS writes for a file of one value, under a key.
func writeSOPS(t *testing.T, client *kms.Client, key, name string) {
	t.Helper()
	out := must(client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: "AES_256"}))(t)
	writeTemp(t, name, must(json.Marshal(map[string]any{"password": "ENC[AES256_GCM,data:x,iv:y,tag:z,type:str]", "sops": map[string]any{
		"kms":          []any{map[string]any{"arn": *out.KeyId, "created_at": "2026-03-01T10:00:00Z", "enc": base64.StdEncoding.EncodeToString(out.CiphertextBlob)}},
		"lastmodified": "2026-03-01T10:00:00Z", "mac": "ENC[AES256_GCM,data:x,iv:y,tag:z,type:str]", "version": "3.9.0",
	}}))(t))
}

// sealedFiles writes a file of each format into the working folder, under a key.
func (a *account) sealedFiles(key string) (names []string) {
	a.t.Helper()
	blob := func(context map[string]string) []byte {
		return must(a.kms.GenerateDataKey(a.t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: "AES_256", EncryptionContext: context}))(a.t).CiphertextBlob
	}
	instruction := map[string]string{"x-amz-key-v2": base64.StdEncoding.EncodeToString(blob(map[string]string{"aws:x-amz-cek-alg": "AES/GCM/NoPadding"})), "x-amz-iv": "AAAAAAAAAAAAAAAA", "x-amz-matdesc": `{"aws:x-amz-cek-alg":"AES/GCM/NoPadding"}`, "x-amz-wrap-alg": "kms+context", "x-amz-cek-alg": "AES/GCM/NoPadding", "x-amz-tag-len": "128"}
	wrapped := blob(nil)
	writeSOPS(a.t, a.kms, key, "config.sops.json")
	writeTemp(a.t, "b.instruction", must(json.Marshal(instruction))(a.t))
	writeTemp(a.t, "tink", slices.Concat(binary.BigEndian.AppendUint32(nil, uint32(len(wrapped))), wrapped, bytes.Repeat([]byte{7}, 40)))
	writeTemp(a.t, "raw", blob(map[string]string{"tenant": "a"}))
	writeTemp(a.t, "keyset.json", must(json.Marshal(map[string]any{"encryptedKeyset": blob(map[string]string{"associatedData": "74656e616e742061"}), "keysetInfo": map[string]any{"primaryKeyId": 1}}))(a.t))
	writeTemp(a.t, "plain", []byte("nothing of the kind"))
	a.expectCommand(exitOK, "", "seal", "--key", key, "--context", ctxA, "plain", "sealed")
	return []string{"sealed", "config.sops.json", "b.instruction", "tink", "raw", "keyset.json", "plain"}
}

// TestInspect: it knows all formats, without any environment.
func TestInspect(t *testing.T) {
	a := newAccount(t)
	a.enter()
	key := a.newKey(appAlias)
	schema := schemaOf(t, "envelopes.v1.schema.json")
	t.Chdir(t.TempDir())
	names := a.sealedFiles(key)
	sealed := must(os.ReadFile("sealed"))(t)
	newer := bytes.Clone(sealed)
	newer[7] = 2
	writeTemp(t, "newer", newer)
	writeTemp(t, "damaged", sealed[:40])
	writeTemp(t, "c.instruction", []byte("{}"))
	writeTemp(t, "v2.json", must(os.ReadFile("b.instruction"))(t))
	writeTemp(t, "v3.json", []byte(`{"Metadata":{"X-Amz-C":"115","x-amz-meta-x-amz-d":"d","x-amz-i":"i"},"ContentLength":3}`))
	writeTemp(t, "list.json", []byte(`[]`))
	large := must(os.Create("large"))(t)
	if err := errors.Join(large.Truncate(clientside.MaxBody+5), large.Close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"} {
		t.Setenv(name, "")
	}
	asked := false
	defer a.box.AWS.Observe(func(localaws.Request) { asked = true })()

	args := append([]string{"inspect", "--json", "--metadata", "v2.json", "--metadata", "v3.json", "--metadata", "list.json", "newer", "damaged", "c.instruction", "missing", "large"}, names...)
	out := a.expectCommand(exitError, "", args...)
	if err := schema.Validate(must(jsonschema.UnmarshalJSON(strings.NewReader(out)))(t)); err != nil {
		t.Errorf("%s\nis not as its schema says: %v", out, err)
	}
	var got inspectedJSON
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range got.Files {
		line := fmt.Sprintf("%s %s sure=%t %s keys=%d moves=%t", f.File, f.Format, f.Sure, f.Place, len(f.Keys), f.Moves)
		for _, k := range f.Keys {
			line += fmt.Sprintf(" label=%t %s", k.Label == key, contextText(k.Context))
		}
		if f.Problem != "" {
			line += " problem"
		}
		lines = append(lines, line)
	}
	const gcm = "aws:x-amz-cek-alg=AES/GCM/NoPadding"
	want := []string{
		"newer  sure=false  keys=0 moves=false problem", "damaged  sure=false  keys=0 moves=false problem",
		"c.instruction  sure=false  keys=0 moves=false problem", "missing  sure=false  keys=0 moves=false problem", "large  sure=false  keys=0 moves=false",
		"sealed cmkeeper-envelope sure=true body keys=1 moves=true label=true purpose=backups, tenant=a",
		"config.sops.json sops sure=true body keys=1 moves=true label=true ",
		"b.instruction s3-client-v2 sure=true instruction-file keys=1 moves=true label=false " + gcm,
		"tink tink sure=false body keys=1 moves=true label=false ", "raw kms-ciphertext sure=false body keys=1 moves=true label=false ",
		"keyset.json tink-keyset sure=true body keys=1 moves=true label=false ",
		"plain  sure=false  keys=0 moves=false",
		"v2.json s3-client-v2 sure=true metadata keys=1 moves=true label=false " + gcm,
		"v3.json s3-client-v3 sure=true instruction-file keys=0 moves=false", "list.json  sure=false  keys=0 moves=false problem",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	// From standard input, whose length is not known before.
	for _, tt := range []struct {
		content []byte
		want    string
	}{{sealed, `"format":"cmkeeper-envelope"`}, {must(os.ReadFile("raw"))(t), `"format":"kms-ciphertext"`}, {make([]byte, clientside.MaxBody+7), `"bytes":16777223`}} {
		fromStandardInput(t, tt.content)
		a.expectCommand(exitOK, tt.want, "inspect", "-", "--json")
	}
	text := a.expectCommand(exitError, "KMS key   "+key, append([]string{"inspect", "newer", "damaged", "large", "--metadata", "v3.json"}, names...)...)
	expectNarrow(t, text)
	for _, want := range []string{"use a newer cmkeeper", "context   purpose=backups\n            tenant=a\n", "can move  no: it has none of the formats", "--context associatedData=HEX\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	a.expectCommand(exitUsage, "name files, or an object's metadata with --metadata", "inspect")
	if asked {
		t.Error("AWS was asked")
	}
}

// TestInspectShowsText: what a file says is shown as text, whatever it says.
func TestInspectShowsText(t *testing.T) {
	f := clientside.Found{Format: clientside.SOPS, Sure: true, Place: clientside.InBody, Keys: []clientside.Key{{Label: "arn:\x1b[2J", Context: map[string]string{"a": "b\u202e  c"}}}}
	text := inspectedJSON{Files: []inspectedFile{inspected("a\x1b.json", f, 1, nil)}}.text()
	if strings.ContainsAny(text, "\x1b\u202e") || !strings.Contains(text, `a=b\u202e  c`) {
		t.Errorf("%q", text)
	}
}

func TestInspectSchema(t *testing.T) {
	const file = "envelopes.v1.schema.json"
	all := &inspectedJSON{}
	fillValue(reflect.ValueOf(all).Elem())
	var document map[string]any
	if err := json.Unmarshal(must(json.Marshal(all))(t), &document); err != nil {
		t.Fatal(err)
	}
	expectMembers(t, file, document, schemaOf(t, file))
	for format := range formatNames {
		for _, place := range []clientside.Place{clientside.InMetadata, clientside.InInstructionFile, clientside.InBody} {
			one := inspectedJSON{envelopesSchema, []inspectedFile{{File: "a", Format: format, Place: place, Keys: []inspectedKey{}}}}
			expectValid(t, file, string(must(json.Marshal(one))(t)))
		}
	}
	in := must(jsonschema.UnmarshalJSON(strings.NewReader(`{"schema":"cmkeeper.envelopes.v1","files":[{"file":"a","format":"other","sure":true,"keys":[],"moves":false}]}`)))(t)
	if schemaOf(t, file).Validate(in) == nil {
		t.Error("the schema takes an unknown format")
	}
}

func TestRewrap(t *testing.T) {
	a := newAccount(t)
	a.enter()
	oldKey, newKey, thirdKey := a.newKey(appAlias), a.newKey("alias/new"), a.newKey("")
	t.Chdir(t.TempDir())
	names := a.sealedFiles(oldKey)
	if err := os.Chmod("sealed", 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sealed", "link"); err != nil {
		t.Fatal(err)
	}
	before := map[string][]byte{}
	for _, name := range names {
		before[name] = must(os.ReadFile(name))(t)
	}
	changed := func() (all []string) {
		for _, name := range names {
			if !bytes.Equal(before[name], must(os.ReadFile(name))(t)) {
				all = append(all, name)
			}
		}
		return all
	}
	var mu sync.Mutex
	calls := map[string]int{}
	defer a.box.AWS.Observe(func(r localaws.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls[r.Operation]++
	})()
	rewrap := func(code int, args ...string) string {
		t.Helper()
		return a.expectCommand(code, "", append([]string{"rewrap", "--to", "alias/new"}, args...)...)
	}
	expect := func(got, want string) {
		t.Helper()
		got = strings.NewReplacer(oldKey, "OLD", newKey, "NEW").Replace(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	// A dry run says what would be, and changes nothing; without --unsure and --from, what
	// is not known stays.
	expect(rewrap(exitError, append([]string{"--dry-run"}, names...)...), `To NEW
sealed: would be re-wrapped
config.sops.json: would be re-wrapped
b.instruction: NOT re-wrapped: it does not say by ARN under which key it is:
    name that key with --from
tink: NOT re-wrapped: it looks like a ciphertext of Tink's KMS envelope AEAD,
    which may be chance: if it is one, say --unsure
raw: NOT re-wrapped: it looks like a ciphertext of KMS, which may be chance: if
    it is one, say --unsure
keyset.json: NOT re-wrapped: it does not say by ARN under which key it is: name
    that key with --from
plain: NOT re-wrapped: it has none of the formats that are known
`)
	if got := changed(); got != nil {
		t.Errorf("the dry run changed %v", got)
	}
	if u := must(a.kms.GetKeyLastUsage(t.Context(), &kms.GetKeyLastUsageInput{KeyId: &newKey}))(t); u.KeyLastUsage != nil && u.KeyLastUsage.Operation != "" {
		t.Errorf("the dry run has used the key for %s", u.KeyLastUsage.Operation)
	}
	a.expectCommand(exitError, "as --context", "rewrap", "--to", newKey, "--from", oldKey, "--unsure", "raw")
	a.deny(administrator, "kms:ReEncryptFrom")
	a.expectCommand(exitError, "kms:ReEncryptFrom on", "rewrap", "--to", newKey, "--dry-run", "sealed")
	a.expectCommand(exitError, "kms:ReEncryptFrom on", "rewrap", "--to", newKey, "sealed")
	a.deny(administrator, "kms:DescribeKey")
	a.expectCommand(exitError, "--to: ", "rewrap", "--to", newKey, "sealed")
	a.deny(administrator, "kms:ListAliases")
	a.expectCommand(exitError, "this takes kms:ListAliases", "rewrap", "--to", newKey, "sealed")
	a.allowAll(administrator)
	if got := changed(); got != nil {
		t.Errorf("refused calls changed %v", got)
	}
	expect(rewrap(exitError, "--unsure", "--from", appAlias, "--context", "tenant=a", "link", "missing", "config.sops.json", "b.instruction", "tink", "raw"), `To NEW
link: re-wrapped
missing: NOT re-wrapped: lstat missing: no such file or directory
config.sops.json: re-wrapped
b.instruction: re-wrapped
tink: re-wrapped
raw: re-wrapped
`)
	a.expectCommand(exitError, "as --context", "rewrap", "--to", newKey, "--from", oldKey, "keyset.json")
	expect(rewrap(exitOK, "--from", oldKey, "--context", "associatedData=74656e616e742061", "keyset.json"), "To NEW\nkeyset.json: re-wrapped\n")
	if diff := cmp.Diff(names[:6], changed()); diff != "" {
		t.Errorf("changed: %s", diff)
	}
	for name, mode := range map[string]fs.FileMode{"sealed": 0o640, "tink": 0o600, "link": fs.ModeSymlink | 0o777} {
		if got := must(os.Lstat(name))(t).Mode(); got != mode {
			t.Errorf("the mode of %s is %v", name, got)
		}
	}
	// Again: nothing changes.
	for _, name := range names {
		before[name] = must(os.ReadFile(name))(t)
	}
	expect(rewrap(exitOK, "sealed", "config.sops.json"), "To NEW\nsealed: already under that key\nconfig.sops.json: already under that key\n")
	expect(rewrap(exitOK, "--unsure", "--from", oldKey, "sealed", "tink"), "To NEW\nsealed: left as it is: no data key of it is under\n    OLD\ntink: left as it is: no data key of it is under\n    OLD\n")
	if got := changed(); got != nil {
		t.Errorf("what is under the new key changed: %v", got)
	}
	// KMS has the data keys, and nobody else.
	mu.Lock()
	if calls["Decrypt"]+calls["GenerateDataKey"]+calls["Encrypt"] > 0 || calls["ReEncrypt"] == 0 {
		t.Errorf("calls: %v", calls)
	}
	mu.Unlock()
	// The old key is gone, and all can be read.
	must(a.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &oldKey}))(t)
	if out := a.expectCommand(exitOK, "", "open", "--context", ctxA, "sealed"); out != string(before["plain"]) {
		t.Errorf("it opens as %q", out)
	}
	must(a.kms.Decrypt(t.Context(), &kms.DecryptInput{KeyId: &newKey, CiphertextBlob: must(os.ReadFile("raw"))(t), EncryptionContext: map[string]string{"tenant": "a"}}))(t)

	// A file that somebody writes meanwhile is not replaced.
	written := append(bytes.Clone(before["sealed"]), 1)
	stop := a.box.AWS.Observe(func(r localaws.Request) {
		if r.Operation == "ReEncrypt" {
			_ = os.WriteFile("sealed", written, 0o600)
		}
	})
	a.expectCommand(exitError, "sealed: NOT re-wrapped: somebody has written the file meanwhile", "rewrap", "--to", thirdKey, "sealed")
	stop()
	if !bytes.Equal(must(os.ReadFile("sealed"))(t), written) {
		t.Error("what somebody wrote is gone")
	}

	// A stranger's key is not moved under our own unless it is named.
	h := must(envelope.ReadHeader(bytes.NewReader(before["sealed"])))(t)
	stranger := strings.Replace(oldKey, arn.Account(oldKey), "999999999999", 1)
	forged := append(must(h.Rewrapped(stranger, h.WrappedKey))(t), before["sealed"][h.Size:]...)
	writeTemp(t, "forged", forged)
	a.expectCommand(exitError, stranger+",\n    of another account: if it is yours", "rewrap", "--to", newKey, "forged")
	// A file with two names would keep the old content under one of them.
	if err := os.Link("raw", "raw2"); err != nil {
		t.Fatal(err)
	}
	a.expectCommand(exitError, "hard links", "rewrap", "--to", newKey, "raw")
	a.expectCommand(exitUsage, "rewrap replaces files", "rewrap", "--to", newKey, "-")
	a.expectCommand(exitUsage, "are the same key", "rewrap", "--to", newKey, "--from", "alias/new", "raw")
	a.expectCommand(exitError, "--from: describe key alias/none: not found", "rewrap", "--to", newKey, "--from", "alias/none", "raw")
	expectFiles(t, append(names, "link", "forged", "raw2")...)
}

// TestRewrapAliases: what names an alias does not say under which key it is.
func TestRewrapAliases(t *testing.T) {
	const ours = "000000000000"
	keyOf := func(account, id string) string { return "arn:aws:kms:us-east-1:" + account + ":key/" + id }
	alias, to, from, stranger := "arn:aws:kms:us-east-1:"+ours+":alias/app", keyOf(ours, "new"), keyOf(ours, "old"), keyOf("999999999999", "x")
	for _, tt := range []struct {
		labels []string
		want   []string
		err    string
	}{
		{[]string{from, from}, []string{from}, ""},
		{[]string{to}, nil, ""},
		{[]string{to, stranger}, nil, ""},
		{[]string{from, stranger}, []string{from}, ""},
		{[]string{stranger}, nil, "of another account"},
		{[]string{alias}, nil, "name that key with --from"},
		{[]string{to, alias}, nil, "name that key with --from"},
		{[]string{""}, nil, "name that key with --from"},
	} {
		f := clientside.Found{Format: clientside.SOPS, Sure: true}
		for _, label := range tt.labels {
			f.Keys = append(f.Keys, clientside.Key{Label: label})
		}
		r := rewrapper{command: &rewrapCommand{}, account: ours, move: clientside.Move{To: to, Aliases: []string{alias}}}
		move, err := r.moveOf(f)
		if fmt.Sprint(err) != "<nil>" && tt.err == "" || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || tt.err == "" && !slices.Equal(move.From, tt.want) {
			t.Errorf("%q: %v, %v", tt.labels, move.From, err)
		}
	}
	r := rewrapper{command: &rewrapCommand{}, account: ours, move: clientside.Move{To: to}}
	if _, err := r.moveOf(clientside.Found{Format: clientside.S3ClientV2, Sure: true, Keys: []clientside.Key{{Label: to, LabelInContext: true}}}); err == nil {
		t.Error("a label in the context is taken for the key of now")
	}
}

// TestLargeFiles: memory does not grow with the files.
func TestLargeFiles(t *testing.T) {
	const size, most = 96 << 20, 24 << 20
	a := newAccount(t)
	a.enter()
	a.newKey(appAlias)
	newKey := a.newKey("")
	t.Chdir(t.TempDir())
	in := must(os.Create("in"))(t)
	if err := errors.Join(in.Truncate(size), in.Close()); err != nil { // takes no space
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"seal", "--key", appAlias, "--context", ctxA, "in", "sealed"}, {"inspect", "sealed"},
		{"rewrap", "--to", newKey, "sealed"}, {"open", "--context", ctxA, "sealed", "out"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a.expectCommand(exitOK, "", args...)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > most {
			t.Errorf("%s takes %d bytes of memory for %d", args[0], used, size)
		}
	}
	if got := must(os.Stat("out"))(t).Size(); got != size {
		t.Errorf("it opens with %d bytes", got)
	}
}

// TestKilledPlacing kills a process that replaces a file, and one that makes one.
func TestKilledPlacing(t *testing.T) {
	const asked = "CMKEEPER_TEST_PLACE"
	if name := os.Getenv(asked); name != "" { // the process that is killed
		err := placing{fresh: name == "new"}.write(name, func(w io.Writer) error {
			_, err := io.WriteString(w, "half")
			fmt.Println("written")
			_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
			return err
		})
		t.Fatal(err)
	}
	binary := must(os.Executable())(t)
	t.Chdir(t.TempDir())
	writeTemp(t, "old", []byte("the whole"))
	for _, name := range []string{"old", "new"} {
		child := exec.CommandContext(t.Context(), binary, "-test.run=^TestKilledPlacing$")
		child.Env = append(os.Environ(), asked+"="+name)
		must(child.StdinPipe())(t)
		out := must(child.StdoutPipe())(t)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "written"; {
		}
		_ = child.Process.Kill()
		_ = child.Wait() // says that it was killed
	}
	if got := must(os.ReadFile("old"))(t); string(got) != "the whole" {
		t.Errorf("the file has %q", got)
	}
	if left := must(filepath.Glob(".cmkeeper-*"))(t); len(left) != 2 {
		t.Errorf("what is left: %v", left)
	}
	if _, err := os.Stat("new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a file has the name: %v", err)
	}
}

func TestPlacing(t *testing.T) {
	t.Chdir(t.TempDir())
	writeTemp(t, "a", []byte("old"))
	text := func(s string) func(io.Writer) error {
		return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
	}
	if err := (placing{fresh: true}).write("a", text("new")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file that exists: %v", err)
	}
	if err := replaceFile("a", func(io.Writer) error { return io.ErrUnexpectedEOF }); !errors.Is(err, io.ErrUnexpectedEOF) || string(must(os.ReadFile("a"))(t)) != "old" {
		t.Errorf("a write that failed: %v", err)
	}
	if err := (placing{fresh: true}).write("b", text("new")); err != nil || string(must(os.ReadFile("b"))(t)) != "new" {
		t.Error(err)
	}
	info := must(os.Stat("a"))(t)
	if err := unchanged("a", info); err != nil {
		t.Error(err)
	}
	if err := replaceFile("a", text("new")); err != nil || unchanged("a", info) == nil {
		t.Errorf("%v, or that the file was written is not noticed", err)
	}
	expectFiles(t, "a", "b")
}
