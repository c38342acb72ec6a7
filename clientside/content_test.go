package clientside

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"
)

// sized is a field of the AWS Encryption SDK after its length.
func sized(s string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s
}

// sdkMessage is a message of the AWS Encryption SDK: message-header.md of its specification.
func sdkMessage(version byte, keys ...string) string {
	header := "\x01\x80\x03\x78" + strings.Repeat("i", 16)
	if version == 2 {
		header = "\x02\x05\x78" + strings.Repeat("i", 32)
	}
	aad := "\x00\x02" + sized("a") + sized("1") + sized("b") + sized("2")
	return header + sized(aad) + string(binary.BigEndian.AppendUint16(nil, uint16(len(keys)))) + strings.Join(keys, "") + "\x02\x00\x00\x10\x00"
}

// keysetInfo is what follows in a keyset of Tink's in JSON.
const keysetInfo = `,"keysetInfo":{"primaryKeyId":1,"keyInfo":[{"typeUrl":"type.googleapis.com/google.crypto.tink.AesGcmKey","status":"ENABLED","keyId":1,"outputPrefixType":"TINK"}]}`

// protoBytes is a field of Protocol Buffers.
func protoBytes(tag, value string) string {
	return tag + string(binary.AppendUvarint(nil, uint64(len(value)))) + value
}

// kmsLike is what looks like a ciphertext of KMS, with so many bytes after its beginning.
func kmsLike(more int) string {
	rest := "\x30\x20\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x06" + strings.Repeat("k", more)
	return "\x01\x02\x02\x00\x78" + string(binary.BigEndian.AppendUint32(nil, uint32(len(rest)))) + rest
}

// What KMS returns may have another length. The field's changes with it, and all else stays.
func TestKeysetOfAnotherLength(t *testing.T) {
	const key = "arn:aws:kms:eu-west-1:111122223333:key/"
	before, after := kmsLike(80), kmsLike(300)
	grow := fakeKMS(func(in *kms.ReEncryptInput) (*kms.ReEncryptOutput, error) {
		return &kms.ReEncryptOutput{SourceKeyId: in.SourceKeyId, KeyId: in.DestinationKeyId, CiphertextBlob: []byte(after)}, nil
	})
	length := func(s string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s }
	for name, of := range map[string]func(string) string{
		"JSON": func(s string) string {
			return "{ \"encryptedKeyset\" :\t\"" + b64([]byte(s)) + `"` + keysetInfo + "}\n"
		},
		"binary":       func(s string) string { return protoBytes("\x12", s) },
		"with info":    func(s string) string { return protoBytes("\x12", s) + protoBytes("\x1a", "info") },
		"by envelope":  func(s string) string { return protoBytes("\x12", length(s)+"data") + protoBytes("\x1a", "") },
		"and its JSON": func(s string) string { return `{"encryptedKeyset":"` + b64([]byte(length(s)+"data")) + `"}` },
	} {
		out, err := whole([]byte(of(before))).Rewrap(t.Context(), grow, Move{From: []string{key + "old"}, To: key + "new"})
		if diff := cmp.Diff(of(after), string(out.Body)); err != nil || diff != "" || out.Moved != 1 {
			t.Errorf("%s: moved %d, %v: %s", name, out.Moved, err, diff)
		}
	}
}

func TestByContent(t *testing.T) {
	c := newCloud(t)
	blob := string(c.wrap(t, c.old, nil))
	kmsKey := sized("aws-kms") + sized(c.old) + sized("wrapped")
	raw := sized("my provider") + sized("name") + sized("wrapped")
	about := map[string]string{"a": "1", "b": "2"}
	const authenticated = "its header, wrapped keys included, is authenticated with its data key: it has to be decrypted and encrypted again"
	large := "it has 16777217 bytes, and its body would have to be written anew, which is done up to 16777216"
	length := string(binary.BigEndian.AppendUint32(nil, uint32(len(blob))))
	header := file(t, "sops.json", map[string]string{"WRAPPED1": b64([]byte(blob)), "WRAPPED2": b64([]byte(blob)), "FOREIGN": b64([]byte(blob))})
	for name, tc := range map[string]struct {
		head string
		size int64 // of the object, where head is not all
		want Found
	}{
		"nothing":                {head: ""},
		"text":                   {head: "Some text, lastmodified: yesterday.\nsops_kms=\n"},
		"age":                    {head: "age-encryption.org/v1\n-> X25519 abc\n"},
		"PGP":                    {head: "-----BEGIN PGP MESSAGE-----\n\nwcBMAyUpShfNkFB/AQf/\n"},
		"JSON":                   {head: `{"lastmodified":"x","version":"1","kms":[{"enc":"x"}]}`},
		"JSON cut off":           {head: `{"sops":{"lastmodified":"x","version":"1"`},
		"SDK 1":                  {head: sdkMessage(1, kmsKey, raw), want: Found{Format: EncryptionSDK, Sure: true, Refusal: authenticated, Keys: []Key{{Wrapped: []byte("wrapped"), Context: about, Label: c.old}}}},
		"SDK 2":                  {head: sdkMessage(2, raw, kmsKey), size: 1 << 40, want: Found{Format: EncryptionSDK, Sure: true, Partial: true, Refusal: authenticated, Keys: []Key{{Wrapped: []byte("wrapped"), Context: about, Label: c.old}}}},
		"SDK raw":                {head: sdkMessage(1, raw), want: Found{Format: EncryptionSDK, Sure: true, Refusal: authenticated}},
		"SDK without keys":       {head: sdkMessage(1)},
		"SDK cut off":            {head: sdkMessage(1, kmsKey)[:100], size: 1000},
		"SDK of another suite":   {head: strings.Replace(sdkMessage(1, kmsKey), "\x03\x78", "\x99\x99", 1)},
		"KMS":                    {head: blob, want: Found{Format: KMSCiphertext, Keys: []Key{{Wrapped: []byte(blob), ContextUnknown: true}}}},
		"KMS and more":           {head: blob + "x"},
		"KMS of more":            {head: blob, size: 1000},
		"KMS cut off":            {head: blob[:len(blob)-1]},
		"KMS of another kind":    {head: strings.Replace(blob, "\x00\x78", "\x00\x79", 1)},
		"Tink":                   {head: length + blob + "x", size: 1 << 40, want: Found{Format: Tink, Partial: true, Keys: []Key{{Wrapped: []byte(blob)}}, Refusal: strings.Replace(large, "16777217", "1099511627776", 1)}},
		"Tink without data":      {head: length + blob},
		"Tink of another length": {head: "\x00\x00\x00\x08" + blob + "x"},
		"Tink, too long":         {head: "\xff\xff\xff\xff" + blob + "x"},
		"Tink, other prefix":     {head: "\x02abcd" + length + blob + "x"},
		"SOPS perhaps":           {head: "a: ENC[AES256_GCM,data:x", size: 30_000, want: Found{Format: SOPS, Partial: true}},
		"SOPS perhaps, large":    {head: "a: ENC[AES256_GCM,data:x", size: MaxBody + 1, want: Found{Format: SOPS, Partial: true, Refusal: large}},
		"SOPS without KMS":       {head: `{"sops":{"lastmodified":"x","version":"1","age":[{"enc":"x"}]}}`, want: Found{Format: SOPS, Sure: true}},
		"SOPS, keys twice":       {head: strings.Replace(string(header), `"pgp": null`, `"kms": [{"arn": "x"}]`, 1), want: Found{Format: SOPS, Refusal: `it looks like a SOPS file, but it has "sops.kms.[0].arn" twice`}},
		"SOPS twice":             {head: strings.Replace(string(header), `"n":`, `"sops":{},"n":`, 1), want: Found{Format: SOPS, Refusal: `it looks like a SOPS file, but it has "sops" twice`}},
		"size that cannot be":    {head: blob, size: 3},

		"keyset":                    {head: `{"encryptedKeyset":"` + b64([]byte(blob)) + `"` + keysetInfo + "}", want: Found{Format: TinkKeyset, Sure: true, Keys: []Key{{Wrapped: []byte(blob), ContextUnknown: true}}}},
		"keyset, more of it":        {head: " {\n \"n\": [1]" + keysetInfo + `, "encryptedKeyset" : "` + strings.ReplaceAll(b64([]byte(blob)), "/", `\/`) + "\"\n}\n", want: Found{Format: TinkKeyset, Sure: true, Keys: []Key{{Wrapped: []byte(blob), ContextUnknown: true}}}},
		"keyset without its info":   {head: `{"encryptedKeyset":"` + b64([]byte(blob)) + `","keysetInfo":null}`, want: Found{Format: TinkKeyset, Keys: []Key{{Wrapped: []byte(blob), ContextUnknown: true}}}},
		"keyset by Tink's envelope": {head: `{"encryptedKeyset":"` + b64([]byte(length+blob+"x")) + `"` + keysetInfo + "}", want: Found{Format: TinkKeyset, Sure: true, Keys: []Key{{Wrapped: []byte(blob)}}}},
		"keyset, its beginning":     {head: `{"encryptedKeyset":"` + b64([]byte(blob)), size: 64 << 10, want: Found{Format: TinkKeyset, Partial: true}},
		"keyset, too large":         {head: `{"encryptedKeyset":"` + b64([]byte(blob)), size: 64<<10 + 1},
		"keyset, too large, whole":  {head: `{"encryptedKeyset":"` + b64([]byte(blob)) + `"` + keysetInfo + "}" + strings.Repeat(" ", 64<<10)},
		"keyset of another KMS":     {head: `{"encryptedKeyset":"` + b64([]byte("another KMS's")) + `"` + keysetInfo + "}"},
		"keyset, no base64":         {head: `{"encryptedKeyset":"?` + b64([]byte(blob)) + `"` + keysetInfo + "}"},
		"keyset twice":              {head: `{"encryptedKeyset":"` + b64([]byte(blob)) + `","encryptedKeyset":"QUJD"` + keysetInfo + "}"},
		"keyset of a keyset":        {head: `{"a":{"encryptedKeyset":"` + b64([]byte(blob)) + `"` + keysetInfo + "}}"},
		"keyset in a list":          {head: `{"encryptedKeyset":["` + b64([]byte(blob)) + `"]` + keysetInfo + "}"},
		"keyset cut off":            {head: `{"encryptedKeyset":"` + b64([]byte(blob)) + `"` + keysetInfo},
		"keyset in binary":          {head: protoBytes("\x12", blob), want: Found{Format: TinkKeyset, Keys: []Key{{Wrapped: []byte(blob), ContextUnknown: true}}}},
		"keyset in binary, info":    {head: protoBytes("\x12", blob) + protoBytes("\x1a", "info"), want: Found{Format: TinkKeyset, Keys: []Key{{Wrapped: []byte(blob), ContextUnknown: true}}}},
		"keyset in binary, in Tink": {head: protoBytes("\x12", length+blob+"x"), want: Found{Format: TinkKeyset, Keys: []Key{{Wrapped: []byte(blob)}}}},
		"keyset in binary, more":    {head: protoBytes("\x12", blob) + "x"},
		"keyset in binary, other":   {head: protoBytes("\x12", blob) + protoBytes("\x22", "info")},
		"keyset in binary, cut off": {head: protoBytes("\x12", blob)[:100]},
		"keyset in binary, length":  {head: "\x12" + strings.Repeat("\xff", 9) + "\x02" + blob},
		"keyset in binary, part":    {head: protoBytes("\x12", blob), size: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			size := tc.size
			if size == 0 {
				size = int64(len(tc.head))
			}
			if tc.want.Format != None {
				tc.want.Place = InBody
			}
			got := ByContent([]byte(tc.head), size)
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreUnexported(Found{}), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

const tail = "sops:\n  kms:\n  - arn: arn:aws:kms:eu-west-1:111122223333:key/a\n    enc: QUJD\n  lastmodified: x\n  version: 3.0.0\n"

// What is good YAML, and what is none, but written in another way than SOPS does, is
// refused or not recognised, and never edited.
func TestRefusedSOPSFiles(t *testing.T) {
	const line = "is written in a way that is not edited"
	replace := func(from, to string) string { return strings.Replace(tail, from, to, 1) }
	for body, want := range map[string]string{
		tail:                     "",
		"a: b\n" + tail:          "",
		"a: \"x\n" + tail + "\"": line, "a: 'x\n" + tail + "'\n": line, "a: [\n" + tail + "]": line, "a: {b: \"]\n" + tail + "\"}": line,
		"a: {b: c \"d]\n" + tail: line, "a: [x'y', b\n]\n" + tail: "", "a: [b:\"c\"]\n" + tail: line, "a: {\"b\":\"c\"}\n" + tail: "",
		"- a\n" + tail: "", "text\n" + tail: line, "%YAML 1.2\n---\n" + tail: line, "--- \"\n" + tail + "\"": line, "? a\n: b\n" + tail: line,
		"a:\n  \"x\n" + tail + "  \"": line, "a: foo\n  \"bar\n" + tail: "", "a: |\n x\n" + tail: "", "a: !!str \"x\n" + tail: line, "a: &b \"x\n" + tail: line,
		"- \"x\n" + tail + "  \"": line, "- a: \"x\n" + tail: line, "- - \"x\n" + tail: line, "\"a: b\n" + tail: line, "a: [x] y\n" + tail: line,
		"a: \"x\" y\n" + tail: line, "a: x\u2028\n" + tail: "line separators", "a: x\ry\n" + tail: "line separators", "a: [ # \"\n ]\n" + tail: "", "\ta: b\n" + tail: line,
		"a: # c\n  \"x\n" + tail + "# \"": line, "a:\n  b:\n    c\n  d: \"x\n" + tail + "# \"": line,
		replace("enc: QUJD", "enc: QUJD\t# x"): line,
		"[sops]\nlastmodified = x\nversion = y\nkms__list_0__map_arn = a\nkms__list_0__map_enc = \"QU\"JD\"\n": "kms.[0].enc " + line,
		"[sops]\nlastmodified = x\nversion = y\nkms__list_0__map_arn = a\nkms__list_0__map_enc = \"\n":         "kms.[0].enc " + line,
		"sops_lastmodified=x\nsops_version=y\nsops_kms__list_0__map_enc=QUJD\n":                                "no enc or no arn",
		tail + tail:           `"sops" twice`,
		tail + "---\n" + tail: "",
		replace("enc: QUJD", "enc: \"QU\n     JD\""):                                                         line,
		replace("enc: QUJD", "enc: QU\n     JD"):                                                             line,
		replace("enc: QUJD", "enc: >-\n      QUJD"):                                                          "kms.[0].enc is written in more than one line",
		replace("enc: QUJD", "enc: &a QUJD"):                                                                 line,
		replace("enc: QUJD", "enc: !!str QUJD"):                                                              line,
		replace("enc: QUJD", "enc: {a: b}"):                                                                  line,
		replace("enc: QUJD", "enc: 12345678"):                                                                "kms.[0].enc is no string",
		replace("enc: QUJD", "enc: \"QUJD\\x41\""):                                                           line,
		replace("enc: QUJD", "enc: ''"):                                                                      "kms.[0].enc, the wrapped key is empty",
		replace("enc: QUJD", "enc: '?'"):                                                                     "kms.[0].enc, the wrapped key is not base64",
		replace("enc: QUJD", "enc: QUJD\n    enc: QUJD"):                                                     `"kms.[0].enc" twice`,
		replace("enc: QUJD", "env: QUJD"):                                                                    "no enc or no arn",
		replace("enc: QUJD", "enc: QUJD\n    context: {a: b}"):                                               line,
		replace("enc: QUJD", "enc: QUJD\n    context: [a]"):                                                  line,
		replace("enc: QUJD", "enc: QUJD\n    context: a"):                                                    "kms.[0].context is no list of names and values",
		replace("enc: QUJD", "enc: QUJD\n    context:\n      a: 1"):                                          "kms.[0].context.a is no string",
		replace("enc: QUJD", "enc: QUJD\n    context:\n      a: 2026-01-01"):                                 "kms.[0].context.a is no string",
		replace("enc: QUJD", "enc: QUJD\n    context:\n      a: yes"):                                        "kms.[0].context.a is no string",
		replace("enc: QUJD", "enc: QUJD\n    context:\n      a: 1_0e3"):                                      "kms.[0].context.a is no string",
		replace("enc: QUJD", "enc: QUJD\n    context:\n      a: 1e999"):                                      "kms.[0].context.a is no string",
		replace("enc: QUJD", "enc: QUJD\n    context:\n      a:\n        b: c"):                              "kms.[0].context.a.b is no list of names and values",
		replace("  - arn", "  - - arn"):                                                                      line,
		replace("  kms:\n", "  kms: &a\n"):                                                                   line,
		replace("sops:\n", "sops: !!map\n"):                                                                  line,
		replace("  version", "\tversion"):                                                                    line,
		replace("  version", "   version"):                                                                   line,
		replace("  version: 3.0.0\n", "  x: y\n"):                                                            "-",
		"[sops]\nlastmodified = x\nversion = y\nkms__list_0__map_arn = a\nkms__list_0__map_enc = QUJD ; x\n": "kms.[0].enc " + line,
		"[sops]\nlastmodified = x\nversion = y\nkms__list_0__map_arn = a\nkms__list_0__map_enc = QU\\\nJD\n": "kms.[0].enc " + line,
		"[sops]\nlastmodified = x\nversion = y\nkms__list_0__map_arn = \"\"\"a\nb\n":                         "a quote that does not end",
		"[sops]\nlastmodified = x\nversion = y\n`a = b\n":                                                    "a name whose quote does not end",
		"[sops]\nlastmodified = x\nversion\n":                                                                "neither a section nor a name",
		"[sops]\nlastmodified = x\nversion = y\n[sops]\n":                                                    "2 sections",
		"[sops]\nlastmodified = x\nlastmodified = x\n":                                                       `"lastmodified" twice`,
		"[a]\nb = \"\"\"\n[sops]\nlastmodified = x\nversion = y\nkms__list_0__map_enc = x\n\"\"\"\n":         "-",
		"[a]\nb = c \\\n[sops]\nlastmodified = x\nversion = y\n":                                             "-",
		"sops_lastmodified=x\nsops_version=y\nsops_kms__list_0__map_arn=a\n":                                 "no enc or no arn",
		"sops_lastmodified=x\nsops_lastmodified=y\n":                                                         `"lastmodified" twice`,
		"sops_lastmodified=x\nsops_version=y\nsops_kms__list_0__map_arn=a\nsops_kms__list_0__map_enc=" + strings.Repeat("A", 70_000): "is too long",
		"sops_lastmodified=x\nsops_version=y\n" + manyKeys(300):                                                                      "more than 256 keys",
		"sops_lastmodified=x\nsops_version=y\n" + lots:                                                                               "more than 10000 values",
		`{"sops":{"lastmodified":"x","` + long + `":[` + strings.Repeat("1,", 100) + `1]}}`:                                          "names with more than 1048576 bytes",
		`{"sops":{"lastmodified":"x","kms":[{"context":{"` + long + `":{"a":"b"}}}]}}`:                                               "is no list of names and values",
		`{"sops":{"lastmodified":"x","version":"y","key_groups":{"` + long + `":{"kms":[{"arn":"a","enc":"!"}]}}}}`:                  "the wrapped key is not base64",
	} {
		f := whole([]byte(body))
		switch {
		case want == "" && (!f.Sure || f.Refusal != ""), want == "-" && f.Format != None, len(want) > 1 && (f.Format != SOPS || f.Refusal == "" || !strings.Contains(f.Refusal, want)):
			t.Errorf("%.300q: %s %t %q, want %q", body, f.Format, f.Sure, f.Refusal, want)
		case len(f.Refusal) > 500:
			t.Errorf("%.300q: a refusal of %d characters", body, len(f.Refusal))
		}
	}
}

var long = strings.Repeat("k", 64<<10)

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "sops_kms__list_%d__map_arn=a\nsops_kms__list_%d__map_enc=QUJD\n", i, i)
	}
	return b.String()
}

var lots = func() string {
	var b strings.Builder
	for i := range maxFields {
		fmt.Fprintf(&b, "sops_x%d=a\n", i)
	}
	return b.String()
}()

// flip is a KMS that moves anything: it changes the last byte.
var flip = fakeKMS(func(in *kms.ReEncryptInput) (*kms.ReEncryptOutput, error) {
	blob := bytes.Clone(in.CiphertextBlob)
	blob[len(blob)-1] ^= 1
	return &kms.ReEncryptOutput{SourceKeyId: in.SourceKeyId, KeyId: in.DestinationKeyId, CiphertextBlob: blob}, nil
})

// checkContent checks what has to be so of any content: what can be re-wrapped is, changes
// where it should, and other readers of YAML agree.
func checkContent(t *testing.T, body []byte) {
	t.Helper()
	for _, size := range []int64{int64(len(body)), int64(len(body)) + 1, MaxBody + 1} {
		f := ByContent(body, size)
		if f.Format == None || f.Refusal != "" || f.Partial {
			continue
		}
		const key = "arn:aws:kms:eu-west-1:111122223333:key/"
		m := Move{From: []string{key + "old"}, To: key + "new", Aliases: []string{"arn:aws:kms:eu-west-1:111122223333:alias/app"}}
		for _, k := range f.Keys {
			m.From = append(m.From, "arn:aws:kms:eu-west-1:111122223333:key/"+strings.TrimPrefix(k.Label, key))
		}
		m.From = slices.DeleteFunc(m.From, func(s string) bool { return s == m.To || s == key })
		out, err := f.Rewrap(t.Context(), flip, m)
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		if f.Format == TinkKeyset && out.Moved > 0 {
			sameKeyset(t, body, out.Body)
		}
		if f.Format != SOPS || body[0] == '{' || !bytes.Contains(body, []byte("sops:")) {
			continue
		}
		before, err := readYAML(body)
		if err != nil {
			continue // nobody can read it
		}
		var found []string
		for _, k := range f.Keys {
			found = append(found, fmt.Sprint(k.Label, b64(k.Wrapped), k.Context))
		}
		slices.Sort(found)
		if diff := cmp.Diff(before, found, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%q: %s", body, diff)
		}
		if out.Moved > 0 {
			sameYAML(t, body, f, out)
		}
	}
}

// sameKeyset checks that other readers of JSON find the same keyset but for what is encrypted.
func sameKeyset(t *testing.T, before, after []byte) {
	t.Helper()
	var was, is map[string]any
	if json.Unmarshal(before, &was) != nil {
		return // in binary
	}
	if err := json.Unmarshal(after, &is); err != nil || was[keysetMember] == is[keysetMember] {
		t.Fatalf("%q: %v", after, err)
	}
	delete(was, keysetMember)
	delete(is, keysetMember)
	if diff := cmp.Diff(was, is); diff != "" {
		t.Fatalf("%q: %s", before, diff)
	}
}

// readYAML returns the keys that a reader of YAML finds.
func readYAML(body []byte) (all []string, err error) {
	type key struct {
		ARN     string            `yaml:"arn"`
		Enc     string            `yaml:"enc"`
		Context map[string]string `yaml:"context"`
	}
	type group struct {
		KMS []key `yaml:"kms"`
	}
	d := yaml.NewDecoder(bytes.NewReader(body))
	for {
		var doc struct {
			SOPS struct {
				group  `yaml:",inline"`
				Groups []group `yaml:"key_groups"`
			} `yaml:"sops"`
		}
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			slices.Sort(all)
			return all, nil
		} else if err != nil {
			return nil, err
		}
		for _, g := range append([]group{doc.SOPS.group}, doc.SOPS.Groups...) {
			for _, k := range g.KMS {
				wrapped, err := decode(k.Enc)
				if err != nil {
					return nil, err
				}
				if k.Context == nil {
					k.Context = map[string]string{}
				}
				all = append(all, fmt.Sprint(k.ARN, b64(wrapped), k.Context))
			}
		}
	}
}

func seeds(t testing.TB) [][]byte {
	names, err := filepath.Glob("testdata/sops*")
	if err != nil {
		t.Fatal(err)
	}
	all := [][]byte{[]byte(sdkMessage(1, sized("aws-kms")+sized("arn")+sized("wrapped"))), []byte(tail),
		[]byte(`{"encryptedKeyset":"` + b64([]byte(kmsLike(80))) + `"` + keysetInfo + "}\n"),
		[]byte(protoBytes("\x12", kmsLike(80)) + protoBytes("\x1a", "\x08\x01")),
		[]byte(protoBytes("\x12", string(appendSized(nil, []byte(kmsLike(80))))+"data")),
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.NewReplacer("WRAPPED1", "QUJD", "WRAPPED2", "QUJE", "FOREIGN", "QUJF", "OLD", "arn:aws:kms:eu-west-1:111122223333:key/a", "ALIAS", "arn:aws:kms:eu-west-1:111122223333:alias/app", "OTHER", "arn:aws:kms:eu-west-1:111122223333:key/b").Replace(string(text)))
		all = append(all, text)
	}
	return all
}

func FuzzByContent(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed)
	}
	f.Fuzz(checkContent)
}

// Files that are changed here and there, with what has a meaning in YAML above all, are
// read as another reader does, or refused.
func TestMutatedContent(t *testing.T) {
	all := seeds(t)
	random := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"\"", "'", "\n", "\n  ", "\n    ", ": ", ":", "- ", "[", "]", "{", "}", ",", " #", "#", "|", ">", "|-\n", "&a ", "*a", "!!str ", "\\", "\\\"", "---\n", "...\n", "? ", "\t", "sops:\n", "''", "\r\n", "\u00e9"}
	for range 20_000 {
		body := bytes.Clone(all[random.IntN(len(all))])
		for range 1 + random.IntN(4) {
			at := random.IntN(len(body) + 1)
			if random.IntN(3) == 0 {
				at = bytes.IndexByte(body[at:], '\n') + at + 1 // at the beginning of a line
			}
			piece := pieces[random.IntN(len(pieces))]
			end := min(len(body), at+random.IntN(2)*random.IntN(20))
			body = slices.Concat(body[:at], []byte(piece), body[end:])
		}
		checkContent(t, body)
	}
}

func FuzzByInstructionFile(f *testing.F) {
	f.Add(`{"x-amz-key-v2":"QUJD","x-amz-iv":"x","x-amz-wrap-alg":"kms+context","x-amz-matdesc":"{\"a\":\"b\"}"}`)
	f.Add(`{"x-amz-3":"QUJ\u0044", "x-amz-w":"12", "x-amz-t":"{}", "n": [1, {"a": null}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		g, err := ByInstructionFile([]byte(body))
		if err != nil || g.Refusal != "" {
			return
		}
		m := Move{From: []string{"arn:aws:kms:eu-west-1:111122223333:key/old"}, To: "arn:aws:kms:eu-west-1:111122223333:key/new"}
		if out, err := g.Rewrap(t.Context(), flip, m); err != nil || out.Moved != 1 {
			t.Errorf("%q: moved %d, %v", body, out.Moved, err)
		}
		text, _ := stringMap([]byte(body))
		if text == nil {
			return // with others than strings in it
		}
		h, err := ByMetadata(text)
		if h.Format == S3ClientV3 || err != nil {
			return // commitment and message id are elsewhere
		}
		if out, err := h.Rewrap(t.Context(), flip, m); err != nil || out.Moved != 1 || maps.Equal(out.Metadata, text) {
			t.Errorf("%q: moved %d, %v", text, out.Moved, err)
		}
	})
}

// Large inputs of one kind take time in proportion to their size.
func TestLinearTime(t *testing.T) {
	for _, piece := range []string{"{\"a\":", "[", "- ", "a: [", "a: \"", "\"", "'", "a:", ":", " ", "\n", "#", "a: |\n", "- -\n", "sops:\n ", "k: v\n", "`", "a = \"\"\"\n", "sops_a__map_", "__list_0", "\x01\x80\x01\x78", "\x00"} {
		for _, prefix := range []string{"", "lastmodified\nsops:\n", "sops_lastmodified=", "[sops]\nlastmodified=", `{"lastmodified":`} {
			body := []byte(prefix + strings.Repeat(piece, (1<<20)/len(piece)))
			start := time.Now()
			ByContent(body, int64(len(body)))
			if took := time.Since(start); took > 10*time.Second { // it takes some milliseconds, and in square time minutes
				t.Errorf("%q, then 1 MiB of %q took %s", prefix, piece, took)
			}
		}
	}
}
