package reencrypt

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/clientside"
)

func (w *world) keys() *Keys { return &Keys{w.t, w.kms} }

// seal stores an object whose data key is under a key of KMS.
func (w *world) seal(name, key, under string, change ...func(*s3.PutObjectInput)) {
	w.t.Helper()
	metadata, body, instruction := Sealings[name].Write(w.keys(), under, "what the application has encrypted")
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
	wrapped, about := Sealings[name].Find(o.Metadata, o.Body, instruction.Body)
	secret, under := w.keys().Secret(wrapped, about)
	text := fmt.Sprintf("%q %q", Blank(o.Body, wrapped, under), Blank(instruction.Body, wrapped, under))
	for _, member := range slices.Sorted(maps.Keys(o.Metadata)) {
		text += fmt.Sprintf(" %q %q", member, Blank(o.Metadata[member], wrapped, under))
	}
	return opened{secret, under, fmt.Sprintf("%x", sha256.Sum256([]byte(text)))}
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
			for name := range Sealings {
				for layer, l := range layers(w) {
					large := func(in *s3.PutObjectInput) {
						if c.change != nil && Sealings[name].Format == clientside.S3ClientV3 && !strings.HasSuffix(*in.Key, ".instruction") {
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
				if layer, name, _ := strings.Cut(o.Key, "/"); layer != "" && Sealings[name].Find != nil {
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
