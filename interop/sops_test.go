package interop

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/cmd/sops/common"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/decrypt"
	"github.com/getsops/sops/v3/keyservice"
	"github.com/getsops/sops/v3/kms"
	"github.com/getsops/sops/v3/stores/dotenv"
	"github.com/getsops/sops/v3/stores/ini"
	"github.com/getsops/sops/v3/stores/json"
	"github.com/getsops/sops/v3/stores/yaml"

	"github.com/cmkeeper/cmkeeper/clientside"
)

// stores are SOPS's formats, each with a file to encrypt.
var stores = map[string]struct {
	store  common.Store
	plain  string
	format string
}{
	"YAML":            {yaml.NewStore(&config.YAMLStoreConfig{}), "# comment\nname: secret # other\nlist:\n    - 1\n    - true\ntext: |\n    sops:\n      kms: \"\nopen_unencrypted: \"sops: 'x\"\n", "yaml"},
	"YAML, indent 2":  {yaml.NewStore(&config.YAMLStoreConfig{Indent: 2}), "name: secret\n", "yaml"},
	"YAML, documents": {yaml.NewStore(&config.YAMLStoreConfig{}), "name: secret\n---\nother: one\n", "yaml"},
	"JSON":            {json.NewStore(&config.JSONStoreConfig{Indent: -1}), `{"name": "secret", "list": [1, {"sops": null}], "open_unencrypted": "<&>"}`, "json"},
	"JSON, indent 0":  {json.NewStore(&config.JSONStoreConfig{Indent: 0}), `{"name": "secret"}`, "json"},
	"dotenv":          {dotenv.NewStore(&config.DotenvStoreConfig{}), "# comment\nNAME=secret\nTEXT=a\\nb\n", "dotenv"},
	"INI":             {ini.NewStore(&config.INIStoreConfig{}), "; comment\n[section]\nname = secret\nother_unencrypted = \"\"\"\n[sops]\n\"\"\"\n", "ini"},
	"binary":          {json.NewBinaryStore(&config.JSONBinaryStoreConfig{Indent: -1}), "\x01any {data\xc3\xbc}", "binary"},
}

// encrypt returns an encrypted SOPS file.
func encrypt(t *testing.T, store common.Store, plain string, groups []sops.KeyGroup, service keyservice.KeyServiceClient) []byte {
	t.Helper()
	branches, err := store.LoadPlainFile([]byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	tree := sops.Tree{Branches: branches, FilePath: filepath.Join(t.TempDir(), "x"), Metadata: sops.Metadata{
		KeyGroups: groups, ShamirThreshold: min(2, len(groups)), UnencryptedSuffix: "_unencrypted", Version: "3.13.3", LastModified: time.Now().UTC(),
	}}
	dataKey, errs := tree.GenerateDataKeyWithKeyServices([]keyservice.KeyServiceClient{service})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if err := common.EncryptTree(common.EncryptTreeOpts{Tree: &tree, Cipher: aes.NewCipher(), DataKey: dataKey}); err != nil {
		t.Fatal(err)
	}
	body, err := store.EmitEncryptedFile(tree)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// newAge returns an age key for SOPS, whose other half nobody has.
func newAge(t *testing.T) *sopsage.MasterKey {
	t.Helper()
	t.Setenv("SOPS_AGE_KEY_FILE", os.DevNull)
	t.Setenv("HOME", t.TempDir())
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := sopsage.MasterKeysFromRecipients(identity.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	return keys[0]
}

func TestSOPS(t *testing.T) {
	w := newWorld(t)
	foreign := w.createKey(t)
	about := map[string]*string{"tenant": new("a"), "number": new("0123"), "odd": new("x: \"y\" #'z' ü")}
	// Each entry of a group by itself opens the group. The alias and the old key are moved.
	groups := map[string]struct {
		of    func() []sops.KeyGroup
		moved int
	}{
		"one key":  {func() []sops.KeyGroup { return []sops.KeyGroup{{kms.NewMasterKey(w.old, "", nil)}} }, 1},
		"an alias": {func() []sops.KeyGroup { return []sops.KeyGroup{{kms.NewMasterKey(w.alias, "", about)}} }, 1},
		"with age": {func() []sops.KeyGroup { return []sops.KeyGroup{{kms.NewMasterKey(w.old, "", about), newAge(t)}} }, 1},
		"with more": {func() []sops.KeyGroup {
			return []sops.KeyGroup{{kms.NewMasterKey(w.old, "", nil), kms.NewMasterKey(foreign, "", about), kms.NewMasterKey(w.alias, "", about)}}
		}, 2},
		"shares": {func() []sops.KeyGroup {
			return []sops.KeyGroup{{kms.NewMasterKey(w.old, "", about), newAge(t)}, {kms.NewMasterKey(w.alias, "", nil)}, {newAge(t)}}
		}, 2},
	}
	type file struct {
		name, format  string
		before, after []byte
		want          []byte
	}
	var files []file
	for storeName, s := range stores {
		for groupName, g := range groups {
			t.Run(storeName+"/"+groupName, func(t *testing.T) {
				moved := g.moved
				body := encrypt(t, s.store, s.plain, g.of(), keyservice.NewLocalClient())
				want, err := decrypt.Data(body, s.format)
				if err != nil {
					t.Fatal(err)
				}
				f := clientside.ByContent(body, int64(len(body)))
				if f.Format != clientside.SOPS || !f.Sure || f.Refusal != "" {
					t.Fatalf("found %+v in\n%s", f, body)
				}
				moved *= strings.Count(string(body), "lastmodified") // once in each document
				out := w.rewrap(t, f, moved)
				if lines(body) != lines(out.Body) {
					t.Errorf("is\n%s\nwas\n%s", out.Body, body)
				}
				files = append(files, file{t.Name(), s.format, body, out.Body, want})
			})
		}
	}
	w.retire(t)
	for _, f := range files {
		if got, err := decrypt.Data(f.after, f.format); err != nil || !bytes.Equal(got, f.want) {
			t.Errorf("%s: %q, %v", f.name, got, err)
		}
		if _, err := decrypt.Data(f.before, f.format); err == nil && !strings.HasSuffix(f.name, "/with_more") {
			t.Errorf("%s: the old key still opens the file of before", f.name)
		}
	}
	if len(files) != len(stores)*len(groups) {
		t.Errorf("%d files were read", len(files))
	}
}

// lines returns the lines of a file but those with a wrapped key or its label.
func lines(body []byte) string {
	var out []string
	for line := range strings.Lines(string(body)) {
		name := strings.TrimLeft(line, "\t -\"")
		if !strings.HasPrefix(name, "enc") && !strings.HasPrefix(name, "arn") && !strings.Contains(name, "_map_enc") && !strings.Contains(name, "_map_arn") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}
