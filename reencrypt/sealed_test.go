package reencrypt

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/clientside"
	"github.com/cmkeeper/cmkeeper/envelope"
)

// sealing is a way in which an application stores a data key with what it encrypts. The
// tests read it without package clientside. That the programs whose formats these are can
// read it is shown in module interop.
type sealing struct {
	format clientside.Format
	// write returns an object, and its instruction file where there is one.
	write func(w *world, under string) (metadata map[string]string, body, instruction string)
	// find returns the wrapped data key of what write wrote, and its encryption context.
	find func(metadata map[string]string, body, instruction string) ([]byte, map[string]string)
}

var (
	v2Context = map[string]string{"aws:x-amz-cek-alg": "AES/GCM/NoPadding", "tenant": "a"}
	v3Context = map[string]string{"aws:x-amz-cek-alg": "115"}
)

const ciphertext = "what the application has encrypted"

func (w *world) dataKey(under string, about map[string]string) []byte {
	w.t.Helper()
	out, err := w.kms.GenerateDataKey(w.t.Context(), &kms.GenerateDataKeyInput{KeyId: &under, NumberOfBytes: aws.Int32(32), EncryptionContext: about})
	w.must(err)
	return out.CiphertextBlob
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func unb64(text string) []byte {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return b
}

func object2json(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func v2Metadata(w *world, under string) map[string]string {
	return map[string]string{
		"x-amz-key-v2": b64(w.dataKey(under, v2Context)), "x-amz-iv": "AAAAAAAAAAAAAAAA", "x-amz-wrap-alg": "kms+context", "x-amz-cek-alg": "AES/GCM/NoPadding",
		"x-amz-matdesc": object2json(v2Context), "x-amz-tag-len": "128", "x-amz-unencrypted-content-length": "18", "of-the-application": "stays",
	}
}

func v3Wrapped(w *world, under string) map[string]string {
	return map[string]string{"x-amz-3": b64(w.dataKey(under, v3Context)), "x-amz-w": "12", "x-amz-t": object2json(v3Context)}
}

func fromInstruction(name string, about map[string]string) func(map[string]string, string, string) ([]byte, map[string]string) {
	return func(_ map[string]string, _, instruction string) ([]byte, map[string]string) {
		var members map[string]string
		if err := json.Unmarshal([]byte(instruction), &members); err != nil {
			panic(err)
		}
		return unb64(members[name]), about
	}
}

var sealings = map[string]sealing{
	"v2": {
		format: clientside.S3ClientV2,
		write: func(w *world, under string) (map[string]string, string, string) {
			return v2Metadata(w, under), ciphertext, ""
		},
		find: func(metadata map[string]string, _, _ string) ([]byte, map[string]string) {
			return unb64(metadata["x-amz-key-v2"]), v2Context
		},
	},
	"v3": {
		format: clientside.S3ClientV3,
		write: func(w *world, under string) (map[string]string, string, string) {
			metadata := v3Wrapped(w, under)
			maps.Copy(metadata, map[string]string{"x-amz-c": "115", "x-amz-d": "commitment", "x-amz-i": "message id"})
			return metadata, ciphertext, ""
		},
		find: func(metadata map[string]string, _, _ string) ([]byte, map[string]string) {
			return unb64(metadata["x-amz-3"]), v3Context
		},
	},
	"v2-instruction": {
		format: clientside.S3ClientV2,
		write: func(w *world, under string) (map[string]string, string, string) {
			return map[string]string{"of-the-application": "stays"}, ciphertext, object2json(v2Metadata(w, under))
		},
		find: fromInstruction("x-amz-key-v2", v2Context),
	},
	"v3-instruction": {
		format: clientside.S3ClientV3,
		write: func(w *world, under string) (map[string]string, string, string) {
			return map[string]string{"x-amz-c": "115", "x-amz-d": "commitment", "x-amz-i": "message id"}, ciphertext, object2json(v3Wrapped(w, under))
		},
		find: fromInstruction("x-amz-3", v3Context),
	},
	"raw": {
		format: clientside.KMSCiphertext,
		write: func(w *world, under string) (map[string]string, string, string) {
			return nil, string(w.dataKey(under, nil)), ""
		},
		find: func(_ map[string]string, body, _ string) ([]byte, map[string]string) { return []byte(body), nil },
	},
	"tink": {
		format: clientside.Tink,
		write: func(w *world, under string) (map[string]string, string, string) {
			blob := w.dataKey(under, nil)
			return nil, string(binary.BigEndian.AppendUint32(nil, uint32(len(blob)))) + string(blob) + ciphertext, ""
		},
		find: func(_ map[string]string, body, _ string) ([]byte, map[string]string) {
			return []byte(body)[4 : 4+binary.BigEndian.Uint32([]byte(body))], nil
		},
	},
	"sops": {
		format: clientside.SOPS,
		write: func(w *world, under string) (map[string]string, string, string) {
			return nil, fmt.Sprintf("a: ENC[AES256_GCM,data:QQ==,iv:QQ==,tag:QQ==,type:str]\nsops:\n  kms:\n  - arn: %s\n    context:\n      tenant: a\n    enc: %s\n  lastmodified: x\n  version: 3.0.0\n",
				under, b64(w.dataKey(under, map[string]string{"tenant": "a"}))), ""
		},
		find: func(_ map[string]string, body, _ string) ([]byte, map[string]string) {
			_, enc, _ := strings.Cut(body, "enc: ")
			enc, _, _ = strings.Cut(enc, "\n")
			return unb64(enc), map[string]string{"tenant": "a"}
		},
	},
	"own": {
		format: clientside.Envelope,
		write: func(w *world, under string) (map[string]string, string, string) {
			sealer, err := envelope.New(w.kms, under, envelope.Options{})
			w.must(err)
			message, err := sealer.Seal(w.t.Context(), []byte(ciphertext), map[string]string{"tenant": "a"})
			w.must(err)
			return nil, string(message), ""
		},
		find: func(_ map[string]string, body, _ string) ([]byte, map[string]string) {
			h, err := envelope.ReadHeader(strings.NewReader(body))
			if err != nil {
				panic(err)
			}
			return h.WrappedKey, h.Context
		},
	},
}

// seal stores an object whose data key is under a key of KMS.
func (w *world) seal(name, key, under string, change ...func(*s3.PutObjectInput)) {
	w.t.Helper()
	metadata, body, instruction := sealings[name].write(w, under)
	put := func(key, text string, metadata map[string]string) {
		w.put(key, w.a, append([]func(*s3.PutObjectInput){func(in *s3.PutObjectInput) { in.Metadata, in.Body = metadata, strings.NewReader(text) }}, change...)...)
	}
	put(key, body, metadata)
	if instruction != "" {
		put(key+".instruction", instruction, map[string]string{"x-amz-crypto-instr-file": ""})
	}
}

// opened is what an object's data key is, and under which key of KMS; digest says all else
// of the object and its instruction file.
type opened struct{ secret, under, digest string }

// open reads a data key in the newest version of an object.
func (w *world) open(name string, all []seen, key string) opened {
	w.t.Helper()
	var o, instruction seen
	for _, s := range all {
		switch {
		case !s.Latest:
		case s.Key == key:
			o = s
		case s.Key == key+".instruction":
			instruction = s
		}
	}
	blob, about := sealings[name].find(o.Metadata, o.Body, instruction.Body)
	out, err := w.kms.Decrypt(w.t.Context(), &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: about})
	w.must(err)
	text := fmt.Sprintf("%q %q %q", o.Metadata, o.Body, instruction.Body)
	quoted := func(b []byte) string { q := fmt.Sprintf("%q", string(b)); return q[1 : len(q)-1] }
	for _, changes := range []string{b64(blob), quoted(blob), quoted(binary.BigEndian.AppendUint32(nil, uint32(len(blob)))), *out.KeyId} {
		text = strings.ReplaceAll(text, changes, "…")
	}
	return opened{string(out.Plaintext), *out.KeyId, fmt.Sprintf("%x", sha256.Sum256([]byte(text)))}
}

// layers are what S3 itself does with the objects of the tests, and what it does afterwards.
func layers(w *world) map[string]struct {
	put   func(*s3.PutObjectInput)
	after string
} {
	under := func(key string) func(*s3.PutObjectInput) {
		return func(in *s3.PutObjectInput) { in.SSEKMSKeyId = &key }
	}
	return map[string]struct {
		put   func(*s3.PutObjectInput)
		after string
	}{
		"old": {under(w.a), w.b}, "new": {under(w.b), w.b}, "other": {under(w.other), w.other},
		"sse-s3": {func(in *s3.PutObjectInput) {
			in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAes256, nil
		}, ""},
	}
}

func everyHeader(in *s3.PutObjectInput) {
	in.Tagging, in.CacheControl, in.ContentType = aws.String("t=u%20v"), aws.String("private"), aws.String("x/y")
	in.StorageClass, in.WebsiteRedirectLocation, in.ContentLanguage = types.StorageClassStandardIa, aws.String("/r"), aws.String("de")
}

func TestDataKeysMoveWithTheObjects(t *testing.T) {
	for _, c := range []struct {
		name      string
		method    Method
		versioned bool
		change    func(*Options)
	}{
		{"update", MethodUpdate, false, nil},
		{"copy", MethodCopy, false, nil},
		{"update, versions", MethodUpdate, true, nil},
		{"copy, versions", MethodCopy, true, nil},
		// Above 5 GB objects are copied in parts, here from 5 MiB on.
		{"copy in parts", MethodUpdate, false, func(o *Options) { o.MaxCopySize, o.PartSize = 5<<20, 5<<20 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if c.versioned {
				w.versioning(types.BucketVersioningStatusEnabled)
			}
			before := map[string]opened{}
			for name := range sealings {
				for layer, l := range layers(w) {
					large := func(in *s3.PutObjectInput) {
						if c.change != nil && sealings[name].format == clientside.S3ClientV3 && !strings.HasSuffix(*in.Key, ".instruction") {
							in.Body = bodyOf(6 << 20)
						}
					}
					w.seal(name, layer+"/"+name, w.a, everyHeader, l.put, large)
				}
				w.seal(name, "stays/"+name, w.other, everyHeader, layers(w)["other"].put)
			}
			all := w.snapshot()
			of := func(key string) seen {
				return all[slices.IndexFunc(all, func(o seen) bool { return o.Key == key && o.Latest })]
			}
			was := map[string]seen{}
			for _, o := range all {
				was[o.Key] = o
				if layer, name, _ := strings.Cut(o.Key, "/"); layer != "" && sealings[name].find != nil {
					before[o.Key] = w.open(name, all, o.Key)
				}
			}
			var changes []func(*Options)
			if c.change != nil {
				changes = append(changes, c.change)
			}
			var rows []Refusal
			s, err := w.engine(changes...).Run(t.Context(), RunOptions{
				Bucket: bucket, From: []string{w.a}, To: w.b, Method: c.method, Envelopes: EnvelopesContent, RewriteFiles: true,
				Row: func(_ int, r Refusal) { rows = append(rows, r) },
			}, nil)
			w.must(err)
			all = w.snapshot()
			for key, was := range before {
				layer, name, _ := strings.Cut(key, "/")
				want := was
				if want.under = w.b; layer == "stays" {
					want.under = w.other
				}
				if now := w.open(name, all, key); now != want {
					t.Errorf("%s: %+v, want %+v", key, now, want)
				}
			}
			for key, want := range was {
				layer, name, _ := strings.Cut(strings.TrimSuffix(key, ".instruction"), "/")
				now := of(key)
				if l, ok := layers(w)[layer]; ok {
					want.KMSKey = l.after
				}
				if want.Metadata["x-amz-key-v2"]+want.Metadata["x-amz-3"] == "" && now.Body != want.Body { // the data key is in it
					want.Body, want.Checksum = now.Body, now.Checksum
				}
				want.Metadata, want.ETag, want.LastModified, want.Version = now.Metadata, now.ETag, now.LastModified, now.Version
				if fmt.Sprint(now) != fmt.Sprint(want) {
					t.Errorf("%s (%s) is\n%+v, want\n%+v", key, name, now, want)
				}
			}
			versions := int64(len(all))
			if s.Scanned != versions || s.Scanned != s.Moved+s.Skipped+s.Refused || s.Failed+s.Partly != 0 {
				t.Errorf("of %d versions: %+v", versions, s.Counts)
			}
			wrapped := map[Reason]int64{ReasonOnTarget: 16, ReasonOtherKey: 8, ReasonSSES3: 8}
			if fmt.Sprint(s.Rewrapped) != fmt.Sprint(wrapped) {
				t.Errorf("re-wrapped %v, want %v", s.Rewrapped, wrapped)
			}
			// What was copied is noncurrent where there are versions: S3's own encryption of it
			// is moved where the method can, and the data key in it is named.
			for _, r := range rows {
				if r.Reason != ReasonNoncurrent || !c.versioned {
					t.Errorf("%+v", r)
				}
			}
			if parts := w.aws.Requests("s3", "UploadPartCopy"); parts != 0 != (c.change != nil) {
				t.Errorf("%d parts were copied", parts)
			}
			if c.versioned && s.Refused == 0 {
				t.Errorf("no version is named: %+v", s.Counts)
			}
			if !c.versioned { // nothing needs the old key any more
				w.disable(w.a)
				all := w.snapshot()
				for key := range before {
					_, name, _ := strings.Cut(key, "/")
					w.open(name, all, key)
				}
			}
		})
	}
}
