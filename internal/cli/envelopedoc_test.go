package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

// TestEnvelopeDocument keeps the transcripts of docs/envelopes.md true, which are run one
// after the other. With UPDATE_DOCS=1 it writes them.
func TestEnvelopeDocument(t *testing.T) {
	path := must(filepath.Abs(filepath.Join("..", "..", "docs", "envelopes.md")))(t)
	page := string(must(os.ReadFile(path))(t))
	t.Chdir(t.TempDir())
	server := localaws.New(localaws.Options{Account: "111122223333", Region: "eu-central-1"})
	defer server.Close()
	cfg := inprocess.Config(server, "eu-central-1", "olga")
	client := kms.NewFromConfig(cfg)
	var ids []string
	for i, alias := range []string{appAlias, "alias/new"} {
		key := must(client.CreateKey(t.Context(), &kms.CreateKeyInput{}))(t).KeyMetadata
		must(client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: key.KeyId}))(t)
		ids = append(ids, *key.KeyId, fmt.Sprintf("0a1b2c3d-0000-4000-8000-%012d", i+1))
	}
	shown := strings.NewReplacer(ids...)
	writeTemp(t, "invoice.txt", bytes.Repeat([]byte("3 pens, 1.20 each\n"), 5000))
	writeSOPS(t, client, ids[0], "config.sops.json")
	key := ids[0]
	writeTemp(t, "dump.bin", must(client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("a password")}))(t).CiphertextBlob)

	n := 0
	want := regexp.MustCompile("(?s)```console\n\\$ cmkeeper (envelope [^\n]*)\n.*?```").ReplaceAllStringFunc(page, func(block string) string {
		n++
		line := strings.TrimPrefix(strings.Split(block, "\n")[1], "$ cmkeeper ")
		var out, errs bytes.Buffer
		code := exitOK
		if err := demoOperator(t.Context(), nil, cfg, &out, &errs, strings.Fields(line)...); err != nil {
			code = exitError
			if !errors.Is(err, errSilent) {
				fmt.Fprintf(&errs, "cmkeeper: %v\n", err)
			}
		}
		expectNarrow(t, out.String())
		return fmt.Sprintf("```console\n$ cmkeeper %s\n%s$ echo $?\n%d\n```", line, shown.Replace(out.String()+errs.String()), code)
	})
	if n != 6 {
		t.Errorf("the page has %d transcripts", n)
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		page = want
	}
	if diff := cmp.Diff(want, page); diff != "" {
		t.Errorf("%s shows other transcripts; UPDATE_DOCS=1 go test ./internal/cli -run EnvelopeDocument writes them:\n%s", path, diff)
	}
}
