package reencrypt

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/clientside"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// TestHostileObjects: anybody who can write an object chooses what it says of its data key. What
// is sound moves, what is not is named or not claimed and stays what it was, and S3's own
// encryption of all of it moves.
func TestHostileObjects(t *testing.T) {
	w := newWorld(t)
	sops := func(label string) string {
		return object2json(map[string]any{"a": "ENC[AES256_GCM,data:QQ==,iv:QQ==,tag:QQ==,type:str]", "sops": map[string]any{
			"kms":          []any{map[string]any{"arn": label, "enc": b64(w.keys().dataKey(w.a, nil))}},
			"lastmodified": "x", "version": "3.0.0",
		}})
	}
	enc := func(body string) ([]byte, map[string]string) {
		var file struct {
			SOPS struct{ KMS []struct{ Enc string } }
		}
		w.must(json.Unmarshal([]byte(body), &file))
		return unb64(file.SOPS.KMS[0].Enc), nil
	}
	many := func(n int) (yaml, text string) {
		entry := map[string]string{"arn": w.a, "created_at": "x", "enc": b64(w.keys().dataKey(w.a, nil))}
		all := slices.Repeat([]any{entry}, n)
		yaml = "a: ENC[AES256_GCM,data:QQ==,iv:QQ==,tag:QQ==,type:str]\nsops:\n  kms:\n" +
			strings.Repeat("  - arn: "+w.a+"\n    created_at: x\n    enc: "+entry["enc"]+"\n", n) + "  lastmodified: x\n  version: 3.0.0\n"
		return yaml, object2json(map[string]any{"a": "ENC[AES256_GCM,data:QQ==,iv:QQ==,tag:QQ==,type:str]", "sops": map[string]any{"kms": all, "lastmodified": "x", "version": "3.0.0"}})
	}
	manyYAML, manyJSON := many(10_000)
	instruction := object2json(v2Metadata(w.keys(), w.a))
	padded := func(size int) string { return instruction + strings.Repeat(" ", size-len(instruction)) }
	twice := strings.Replace(instruction, "{", `{"x-amz-iv":"AAAA",`, 1)
	find := func(body string) ([]byte, map[string]string) {
		return fromInstruction("x-amz-key-v2", v2Context)(nil, "", body)
	}
	_, err := w.kms.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/secret"), TargetKeyId: &w.c})
	w.must(err)

	marked := map[string]string{instructionMark: ""}
	v2 := func(change ...string) map[string]string {
		m := v2Metadata(w.keys(), w.a)
		for i := 0; i < len(change); i += 2 {
			m[change[i]] = change[i+1]
		}
		return m
	}
	const alias = "arn:aws:kms:us-east-1:" + account + ":alias/"
	cases := map[string]struct {
		body     string
		metadata map[string]string
		// moves finds the data key, where it moves.
		moves  func(body string) ([]byte, map[string]string)
		reason Reason // "" is none
		detail string // and no longer than a line
	}{
		"metadata, context twice":      {metadata: v2("x-amz-matdesc", `{"a":"b","a":"c"}`), reason: ReasonEnvelopeMalformed, detail: `"a" twice`},
		"metadata, context deep":       {metadata: v2("x-amz-matdesc", strings.Repeat(`{"a":`, 200)+"1"+strings.Repeat("}", 200)), reason: ReasonEnvelopeKMS, detail: "InvalidCiphertextException"},
		"metadata, other context":      {metadata: v2("x-amz-matdesc", `{"tenant":"b"}`), reason: ReasonEnvelopeKMS, detail: "InvalidCiphertextException"},
		"metadata, algorithm":          {metadata: v2("x-amz-wrap-alg", "kms+context\t"+strings.Repeat("x", 500)), reason: ReasonEnvelopeFormat, detail: `("kms+context\t`},
		"metadata, no vector":          {metadata: map[string]string{"x-amz-key-v2": "QQ=="}, reason: ReasonEnvelopeMalformed, detail: "x-amz-key-v2 is there without x-amz-iv"},
		"metadata, no commitment":      {metadata: v3Wrapped(w.keys(), w.a), reason: ReasonEnvelopeMalformed, detail: "x-amz-3 is there without x-amz-d or x-amz-i"},
		"metadata, large":              {metadata: map[string]string{"x-amz-key-v2": strings.Repeat("QUFB", 480), "x-amz-iv": "QQ==", "x-amz-wrap-alg": "kms+context"}, reason: ReasonEnvelopeKMS, detail: "InvalidCiphertextException"},
		"below 64 KiB.instruction":     {body: padded(64<<10 - 1), moves: find},
		"64 KiB.instruction":           {body: padded(64 << 10), metadata: marked, moves: find},
		"above 64 KiB.instruction":     {body: padded(64<<10 + 1), metadata: marked, reason: ReasonEnvelopeMalformed, detail: "65537 bytes, and 65536 is the most"},
		"large and no.instruction":     {body: padded(64<<10 + 1)},
		"twice.instruction":            {body: twice, metadata: marked, reason: ReasonEnvelopeMalformed, detail: `"x-amz-iv" twice`},
		"twice and no.instruction":     {body: twice},
		".instruction":                 {body: instruction, moves: find},
		"\n\x1b[2J\n.instruction":      {body: instruction, moves: find},
		"x.instruction":                {body: instruction, moves: find},
		"x.instruction.instruction":    {body: instruction, moves: find},
		"\n\x1b[2J without":            {metadata: map[string]string{"x-amz-c": "115", "x-amz-d": "x", "x-amz-i": "x"}, reason: ReasonEnvelopeInstruction, detail: "without.instruction"},
		"SOPS, 10,000 keys":            {body: manyYAML, reason: ReasonEnvelopeFormat, detail: "it has more than 10000 values"},
		"SOPS in JSON, 10,000 keys":    {body: manyJSON, reason: ReasonEnvelopeFormat, detail: "it has more than 10000 values"},
		"SOPS in JSON, metadata twice": {body: strings.Replace(sops(w.a), "{", `{"sops":{},`, 1), reason: ReasonEnvelopeFormat, detail: `it has "sops" twice`},
		"Tink, no length":              {body: "\x00\x00\x00\x00" + string(w.keys().dataKey(w.a, nil)) + "x"},
		"Tink, the greatest length":    {body: "\xff\xff\xff\xff" + string(w.keys().dataKey(w.a, nil)) + "x"},
		// Nothing authenticates a label. One of another account is believed, see Key.sources.
		"label of another account":   {body: sops("arn:aws:kms:us-east-1:444455556666:key/x")},
		"label of the new key":       {body: sops(w.b), moves: enc},
		"label that is an odd alias": {body: sops(alias + "\n\x1b[2J"), moves: enc},
		"label of a long alias":      {body: sops(alias + strings.Repeat("x", 1_000_000)), moves: enc},
		"label of a forbidden alias": {body: sops(alias + "secret"), moves: enc},
		"label that is no name":      {body: sops("\u202e\n" + strings.Repeat("x", 10_000)), moves: enc},
	}
	secrets := map[string]string{}
	for key, c := range cases {
		w.put(key, w.a, func(in *s3.PutObjectInput) { in.Metadata, in.Body = c.metadata, strings.NewReader(c.body) })
		if c.moves != nil {
			secrets[key], _ = w.keys().Secret(c.moves(c.body))
		}
	}
	before := w.snapshot()
	cfg := inprocess.Config(w.aws, "us-east-1", "worker")
	w.aws.SetIdentityPolicy("worker", func(action, resource string) bool { return action != "kms:DescribeKey" || resource != w.c })
	rows := map[string]Refusal{}
	s, err := w.engine(func(o *Options) {
		o.KMS = kms.NewFromConfig(cfg)
		o.Resolver = asked{inventory.New(kms.NewFromConfig(cfg), w.s3, account, "us-east-1"), t}
	}).Run(t.Context(), RunOptions{
		Bucket: bucket, From: []string{w.a}, To: w.b, Envelopes: EnvelopesContent, RewriteFiles: true,
		Row: func(_ int, r Refusal) { rows[r.Key] = r },
	}, nil)
	w.must(err)
	if s.Scanned != int64(len(cases)) || s.Scanned != s.Moved+s.Skipped+s.Refused || s.Failed != 0 {
		t.Errorf("%+v", s.Counts)
	}
	for i, o := range w.snapshot() {
		c, row := cases[o.Key], rows[o.Key]
		if row.Reason != c.reason || !strings.Contains(row.Detail, c.detail) || len(row.Detail) > 500 {
			t.Errorf("%q: row %s %.1000q, want %s %q", o.Key, row.Reason, row.Detail, c.reason, c.detail)
		}
		if o.KMSKey != w.b {
			t.Errorf("%q is under %s", o.Key, o.KMSKey)
		}
		if c.moves == nil {
			if o.Body != before[i].Body || !maps.Equal(o.Metadata, before[i].Metadata) {
				t.Errorf("%q has changed to %+.1000v", o.Key, o)
			}
			continue
		}
		was, _ := c.moves(c.body)
		now, about := c.moves(o.Body)
		secret, under := w.keys().Secret(now, about)
		if secret != secrets[o.Key] || under != w.b {
			t.Errorf("%q: its data key is under %s", o.Key, under)
		}
		if got, want := strings.Replace(o.Body, b64(now), b64(was), 1), c.body; got != want && !strings.HasPrefix(o.Key, "label ") {
			t.Errorf("%q: more has changed: %.1000q, was %.1000q", o.Key, got, want)
		}
	}
}

// asked is a Resolver that is asked for names only that KMS may know: KeyId of its API
// reference has 2048 characters at most.
type asked struct {
	Resolver
	t *testing.T
}

func (r asked) Resolve(ctx context.Context, name string) (string, error) {
	if len(name) > 2048 {
		r.t.Errorf("KMS is asked for a name of %d characters", len(name))
	}
	return r.Resolver.Resolve(ctx, name)
}

// TestFormatsThatChangeMeanwhile: an object is of another format when it is read, or
// written, than it was when it was looked at.
func TestFormatsThatChangeMeanwhile(t *testing.T) {
	for _, operation := range []string{"HeadObject", "GetObject", "ReEncrypt", "CopyObject", "PutObject"} {
		for _, before := range []string{"v3", "sops", "tink", "v2-instruction"} {
			for _, after := range []string{"v2", "raw", "own", "v3-instruction"} {
				w := newWorld(t)
				w.seal(before, "x", w.a)
				var written atomic.Bool
				var want opened
				stop := w.aws.Observe(func(r localaws.Request) {
					if r.Operation == operation && (r.Service == "kms" || strings.HasPrefix(r.Path, "/"+bucket+"/")) && written.CompareAndSwap(false, true) {
						_, err := w.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: aws.String("x.instruction")})
						w.must(err)
						w.seal(after, "x", w.a, func(in *s3.PutObjectInput) { in.Tagging = aws.String("by=another") })
						want = w.open(after, w.snapshot(), "x")
					}
				})
				s, err := w.engine().Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Envelopes: EnvelopesContent, RewriteFiles: true}, nil)
				stop()
				w.must(err)
				all, is := w.snapshot(), after
				if !written.Load() { // this format takes no such request
					is, want = before, w.open(before, all, "x")
				}
				want.under = w.b
				if now := w.open(is, all, "x"); now != want || s.Failed+s.Refused != 0 {
					t.Errorf("%s that is %s before %s: %+v, want %+v; %+v", before, after, operation, now, want, s.Counts)
				}
				for _, o := range all {
					if o.KMSKey != w.b || written.Load() && len(o.Tags) != 1 {
						t.Errorf("%s that is %s before %s: %+v", before, after, operation, o)
					}
				}
				w.aws.Close()
			}
		}
	}
}

// TestMetadataThatChangeMeanwhile: the ETag of an object under a key of S3's own is the MD5
// of its body, and does not show that others have given it other metadata.
func TestMetadataThatChangeMeanwhile(t *testing.T) {
	for _, versioned := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer w.aws.Close()
			if versioned {
				w.versioning(types.BucketVersioningStatusEnabled)
			}
			bySSES3 := layers(w)["sse-s3"].put
			w.seal("v3", "key", w.a, bySSES3)
			time.Sleep(time.Second) // fake time: S3's dates have no fractions of a second
			var written atomic.Bool
			var want opened
			stop := w.aws.Observe(func(r localaws.Request) {
				if r.Operation == "CopyObject" && written.CompareAndSwap(false, true) {
					w.seal("v3", "key", w.a, bySSES3, func(in *s3.PutObjectInput) { in.CacheControl = aws.String("no-cache") })
					want = w.open("v3", w.snapshot(), "key")
				}
			})
			s, err := w.engine().Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Envelopes: EnvelopesMetadata}, nil)
			stop()
			w.must(err)
			all := w.snapshot()
			want.under = w.b
			if now := w.open("v3", all, "key"); now != want || s.Moved != 1 {
				t.Errorf("%+v, want %+v; %+v", now, want, s.Counts)
			}
			if i := slices.IndexFunc(all, func(o seen) bool { return o.Latest }); all[i].Headers[0] != "no-cache" {
				t.Errorf("what others have written is lost: %+v", all[i])
			}
		})
	}
}

// holding is S3 for an engine whose whole bodies are counted: each is held from the
// request for it until it is put.
type holding struct {
	*s3.Client
	mu   sync.Mutex
	held map[string]bool // false for those that were put
	now  int
	most int
}

func (h *holding) GetObject(ctx context.Context, in *s3.GetObjectInput, change ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	if *in.Bucket == bucket && in.Range == nil {
		h.mu.Lock()
		if _, again := h.held[*in.Key]; !again { // by the pass that verifies
			h.held[*in.Key] = true
			h.now++
			h.most = max(h.most, h.now)
		}
		h.mu.Unlock()
	}
	return h.Client.GetObject(ctx, in, change...)
}

func (h *holding) PutObject(ctx context.Context, in *s3.PutObjectInput, change ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	out, err := h.Client.PutObject(ctx, in, change...)
	h.mu.Lock()
	if h.held[*in.Key] {
		h.held[*in.Key] = false
		h.now--
	}
	h.mu.Unlock()
	return out, err
}

// TestBodiesInMemory: however many objects are worked on, only so many are in memory whole.
// The bound is a number, so that bodies of 16 MiB need not be stored to see it.
func TestBodiesInMemory(t *testing.T) {
	w := newWorld(t)
	_, file, _ := Sealings["sops"].Write(w.keys(), w.a, "x")
	file += "#" + strings.Repeat("x", clientside.HeadSize)
	for i := range 128 {
		w.put(fmt.Sprint(i), w.a, func(in *s3.PutObjectInput) { in.Body = strings.NewReader(file) })
	}
	h := &holding{Client: w.client("worker"), held: map[string]bool{}}
	s, err := w.engine(func(o *Options) { o.S3, o.Concurrency = h, 64 }).Run(t.Context(), RunOptions{
		Bucket: bucket, From: []string{w.a}, To: w.b, Envelopes: EnvelopesContent, RewriteFiles: true,
	}, nil)
	w.must(err)
	if h.most != maxBodies || h.now != 0 || s.Moved != 128 || s.Rewrapped[ReasonOnTarget] != 128 {
		t.Errorf("%d bodies were in memory at once, %d are allowed; %d still are; %+v", h.most, maxBodies, h.now, s.Counts)
	}
}

// TestLabelsAreLookedUpWithinABound: each object names aliases of its own, and all of their
// data keys move.
func TestLabelsAreLookedUpWithinABound(t *testing.T) {
	w := newWorld(t)
	for i := range 30 {
		var keys []any
		for j := range 10 {
			keys = append(keys, map[string]string{"arn": fmt.Sprintf("arn:aws:kms:us-east-1:%s:alias/a-%d-%d", account, i, j), "enc": b64(w.keys().dataKey(w.a, nil))})
		}
		w.put(fmt.Sprint(i), w.a, func(in *s3.PutObjectInput) {
			in.Body = strings.NewReader(object2json(map[string]any{"a": "ENC[AES256_GCM,data:QQ==]", "sops": map[string]any{"kms": keys, "lastmodified": "x", "version": "3.0.0"}}))
		})
	}
	asked := w.aws.Requests("kms", "DescribeKey")
	s, err := w.engine().Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Envelopes: EnvelopesContent, RewriteFiles: true}, nil)
	w.must(err)
	if asked = w.aws.Requests("kms", "DescribeKey") - asked; asked > maxLabels+10 || asked < maxLabels || s.Rewrapped[ReasonOnTarget] != 30 {
		t.Errorf("%d aliases were looked up; %+v", asked, s.Counts)
	}
}
