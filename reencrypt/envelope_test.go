package reencrypt

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/clientside"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

func TestDecideEnvelope(t *testing.T) {
	now := time.Now()
	plain := object{latest: true, size: 10, encryption: "aws:kms", keyARN: "other", storageClass: "STANDARD"}
	with := func(change func(*object)) object { o := plain; change(&o); return o }
	for name, tc := range map[string]struct {
		o     object
		place clientside.Place
		files bool
		want  decision
	}{
		"in metadata":                  {plain, clientside.InMetadata, false, decision{action: rewrap}},
		"in an instruction file":       {plain, clientside.InInstructionFile, false, decision{action: rewrite}},
		"in the body":                  {plain, clientside.InBody, true, decision{action: rewrite}},
		"in a body that has to stay":   {plain, clientside.InBody, false, decision{refuse, ReasonEnvelopeFile}},
		"SSE-S3":                       {with(func(o *object) { o.encryption, o.keyARN = "AES256", "" }), clientside.InMetadata, false, decision{action: rewrap}},
		"above 5 GB":                   {with(func(o *object) { o.size = 6 << 30 }), clientside.InMetadata, false, decision{action: rewrap}},
		"a former version":             {with(func(o *object) { o.latest = false }), clientside.InMetadata, false, decision{refuse, ReasonNoncurrent}},
		"double encryption":            {with(func(o *object) { o.encryption = "aws:kms:dsse" }), clientside.InMetadata, false, decision{refuse, ReasonDSSE}},
		"legal hold":                   {with(func(o *object) { o.held = true }), clientside.InMetadata, false, decision{refuse, ReasonObjectLock}},
		"retention":                    {with(func(o *object) { o.retention, o.retainUntil = true, now.Add(time.Hour) }), clientside.InMetadata, false, decision{refuse, ReasonObjectLock}},
		"a retention that is over":     {with(func(o *object) { o.retention = true }), clientside.InMetadata, false, decision{refuse, ReasonObjectLock}},
		"archived":                     {with(func(o *object) { o.storageClass = "GLACIER" }), clientside.InMetadata, false, decision{refuse, ReasonArchived}},
		"metadata that HEAD hides":     {with(func(o *object) { o.hiddenMetadata = true }), clientside.InMetadata, false, decision{refuse, ReasonMetadata}},
		"the same, in the body":        {with(func(o *object) { o.hiddenMetadata = true }), clientside.InBody, true, decision{refuse, ReasonMetadata}},
		"annotations are copied":       {with(func(o *object) { o.annotated = true }), clientside.InMetadata, false, decision{action: rewrap}},
		"annotations are not put":      {with(func(o *object) { o.annotated = true }), clientside.InBody, true, decision{refuse, ReasonAnnotations}},
		"annotations above 5 GB":       {with(func(o *object) { o.annotated, o.size = true, 6<<30 }), clientside.InMetadata, false, decision{refuse, ReasonAnnotations}},
		"an ACL that cannot be resent": {with(func(o *object) { o.acl = aclOdd }), clientside.InMetadata, false, decision{refuse, ReasonACL}},
		"of another account":           {with(func(o *object) { o.acl = aclForeign }), clientside.InBody, true, decision{refuse, ReasonForeignOwner}},
	} {
		r := rules{from: []string{"old"}, to: "new", method: updateMethod{}, maxCopy: 5 << 30, rewriteFiles: tc.files, now: now}
		if got := decideEnvelope(tc.o, tc.place, r); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
	locking := rules{method: updateMethod{}, maxCopy: 5 << 30, defaultLock: true, now: now}
	if got := decideEnvelope(plain, clientside.InMetadata, locking); got != (decision{refuse, ReasonObjectLock}) {
		t.Errorf("a bucket that locks new objects: %+v", got)
	}
}

// Versions that were re-wrapped are counted once, whatever S3's own encryption of them is.
func TestCountsOfDataKeysAddUp(t *testing.T) {
	first := Counts{Scanned: 10, Moved: 8, Partly: 2, Refused: 1, Skipped: 1, Bytes: 80,
		ByReason: map[Reason]int64{ReasonEnvelopeFormat: 3, ReasonOtherKey: 1}, Rewrapped: map[Reason]int64{ReasonOnTarget: 3, ReasonOtherKey: 2}, Envelopes: map[string]int64{"x": 8}}
	last := Counts{Scanned: 10, Skipped: 7, Refused: 3,
		ByReason: map[Reason]int64{ReasonOnTarget: 4, ReasonOtherKey: 3, ReasonEnvelopeFormat: 3}, Envelopes: map[string]int64{"x": 8}}
	want := Counts{Scanned: 10, Moved: 6, Skipped: 1, Refused: 3, Bytes: 80,
		ByReason: map[Reason]int64{ReasonOtherKey: 1, ReasonEnvelopeFormat: 3}, Rewrapped: map[Reason]int64{ReasonOnTarget: 3, ReasonOtherKey: 2}, Envelopes: map[string]int64{"x": 8}}
	if d := cmp.Diff(want, withEarlier(last, carry(Counts{}, first))); d != "" {
		t.Error(d)
	}
	// One that was moved and is gone in the last pass counts as moved all the same. Which of
	// those under another key it was, the counts do not say: one skipped is missing.
	last.Scanned, last.Skipped, last.ByReason = 9, 6, map[Reason]int64{ReasonOnTarget: 4, ReasonOtherKey: 2, ReasonEnvelopeFormat: 3}
	want.Scanned, want.Skipped, want.ByReason = 9, 0, map[Reason]int64{ReasonEnvelopeFormat: 3}
	if d := cmp.Diff(want, withEarlier(last, carry(Counts{}, first))); d != "" {
		t.Error(d)
	}
	// One that was moved and of which KMS says nothing in the last pass is refused, and not
	// moved too.
	last = Counts{Scanned: 10, Skipped: 6, Refused: 4, ByReason: map[Reason]int64{ReasonOnTarget: 3, ReasonOtherKey: 3, ReasonEnvelopeFormat: 3, ReasonEnvelopeKMS: 1}}
	want = Counts{Scanned: 10, Moved: 5, Skipped: 1, Refused: 4, Bytes: 80, ByReason: map[Reason]int64{ReasonOtherKey: 1, ReasonEnvelopeFormat: 3, ReasonEnvelopeKMS: 1}, Rewrapped: want.Rewrapped}
	if d := cmp.Diff(want, withEarlier(last, carry(Counts{}, first))); d != "" {
		t.Error(d)
	}
}

// What cannot be moved is named, and S3's own encryption of it is moved all the same.
func TestDataKeysThatCannotBeMovedAreNamed(t *testing.T) {
	w := newWorld(t)
	text := func(body string, metadata ...string) func(*s3.PutObjectInput) {
		return func(in *s3.PutObjectInput) {
			in.Body, in.Metadata = strings.NewReader(body), map[string]string{}
			for i := 0; i < len(metadata); i += 2 {
				in.Metadata[metadata[i]] = metadata[i+1]
			}
		}
	}
	under := func(key string) func(*s3.PutObjectInput) {
		return func(in *s3.PutObjectInput) { in.SSEKMSKeyId = &key }
	}
	_, file, _ := Sealings["sops"].Write(w.keys(), w.a, "x")
	message := "\x01\x80\x03\x78" + strings.Repeat("i", 16) + "\x00\x00\x00\x01\x00\x07aws-kms\x00" + string(rune(len(w.a))) + w.a + "\x00\x07wrapped\x02\x00\x00\x10\x00"
	cases := map[string]struct {
		reason Reason // "" is none
		detail string
		format string // that is counted
	}{}
	put := func(key string, reason Reason, detail, format string, change ...func(*s3.PutObjectInput)) {
		w.put(key, w.a, change...)
		c := cases[key]
		c.reason, c.detail, c.format = reason, detail, format
		cases[key] = c
	}
	sealed := func(key string, reason Reason, detail, name, wrappedUnder string, change ...func(*s3.PutObjectInput)) {
		put(key, reason, detail, string(Sealings[name].Format))
		w.seal(name, key, wrappedUnder, change...)
	}
	const stays = "its data key stays under the old key"
	put("a/sdk", ReasonEnvelopeKMS, "aws-encryption-sdk): KMS does not move its data key, or say whether it is under an old key: InvalidCiphertextException", "aws-encryption-sdk", text(message))
	put("a/unknown", ReasonEnvelopeFormat, "an algorithm that is not known", "s3-client-v2", text("x", "x-amz-key-v2", "eA==", "x-amz-iv", "eA==", "x-amz-wrap-alg", "new"))
	put("a/rsa", "", "", "s3-client-v2, not KMS", text("x", "x-amz-key-v2", "eA==", "x-amz-iv", "eA==", "x-amz-wrap-alg", "RSA-OAEP-SHA1"))
	put("a/mixed", ReasonEnvelopeMalformed, "exclude each other", "s3-client", text("x", "x-amz-key-v2", "eA==", "x-amz-3", "eA=="))
	put("a/broken", ReasonEnvelopeMalformed, "not base64", "s3-client", text("x", "x-amz-key-v2", "!", "x-amz-iv", "eA==", "x-amz-wrap-alg", "kms+context"))
	put("a/no-file", ReasonEnvelopeInstruction, "there is none at a/no-file.instruction", "s3-client-v3", text("x", "x-amz-c", "115", "x-amz-d", "x", "x-amz-i", "x"))
	put("a/x.instruction", ReasonEnvelopeMalformed, "not a JSON object", "s3-client", text("[]", "x-amz-crypto-instr-file", ""))
	put("a/y.instruction", "", "", "", text("how to build it"))
	put("a/age", "", "", "sops", text(`{"a":"ENC[AES256_GCM,data:QQ==]","sops":{"lastmodified":"x","version":"1","age":[{"enc":"x"}]}}`))
	put("a/context", ReasonEnvelopeKMS, "InvalidCiphertextException", "kms-ciphertext", text(string(w.keys().dataKey(w.a, v2Context))))
	put("a/other-context", "", "", "kms-ciphertext", text(string(w.keys().dataKey(w.other, v2Context))))
	put("a/archived", ReasonEnvelopeUnread, "InvalidObjectState", "", func(in *s3.PutObjectInput) { in.StorageClass = types.StorageClassGlacier })
	put("a/large", ReasonEnvelopeLarge, "has 16777217 bytes", "sops", text(file+strings.Repeat("#", 16<<20+1-len(file))))
	sealed("a/metadata", ReasonMetadata, "s3-client-v2): "+stays, "v2", w.a, func(in *s3.PutObjectInput) { in.Metadata["odd"] = "=?UTF-8?B?w7w=?=" })
	sealed("o/dsse", ReasonDSSE, stays, "tink", w.a, under(w.other), func(in *s3.PutObjectInput) { in.ServerSideEncryption = types.ServerSideEncryptionAwsKmsDsse })
	sealed("o/other", "", "", "own", w.other, under(w.other))

	before := w.snapshot()
	rows := map[string]Refusal{}
	s, err := w.engine().Run(t.Context(), RunOptions{
		Bucket: bucket, From: []string{w.a}, To: w.b, Envelopes: EnvelopesContent, RewriteFiles: true,
		Row: func(_ int, r Refusal) { rows[r.Key] = r },
	}, nil)
	w.must(err)
	formats := map[string]int64{}
	for key, c := range cases {
		row := rows[key]
		if row.Reason != c.reason || !strings.Contains(row.Detail, c.detail) {
			t.Errorf("%s: %q, want %s and %q", key, row, c.reason, c.detail)
		}
		count(&formats, c.format, 1)
	}
	if d := cmp.Diff(formats, s.Envelopes); d != "" {
		t.Error(d)
	}
	for i, o := range w.snapshot() {
		want := w.b
		if strings.HasPrefix(o.Key, "o/") {
			want = w.other
		}
		if o.KMSKey != want || o.Body != before[i].Body || fmt.Sprint(o.Metadata) != fmt.Sprint(before[i].Metadata) {
			t.Errorf("%s is under %s, want %s, and was\n%+v, is\n%+v", o.Key, o.KMSKey, want, before[i], o)
		}
	}
	if s.Scanned != int64(len(cases)) || s.Scanned != s.Moved+s.Skipped+s.Refused || s.Failed != 0 || int(s.Refused) != len(rows) {
		t.Errorf("%+v, %d rows", s.Counts, len(rows))
	}
}

// A survey tells what is under the key from what nobody can say.
func TestSurveyOfDataKeys(t *testing.T) {
	w := newWorld(t)
	other := func(in *s3.PutObjectInput) { in.SSEKMSKeyId = &w.other }
	w.seal("v2", "v2", w.a, other)
	w.seal("sops", "sops", w.a, other)
	w.seal("sops", "of-another", w.other, other)
	w.put("unknown", w.other, func(in *s3.PutObjectInput) {
		in.Metadata = map[string]string{"x-amz-key-v2": "eA==", "x-amz-iv": "eA==", "x-amz-wrap-alg": "new"}
	})
	w.put("archived", w.other, func(in *s3.PutObjectInput) { in.StorageClass = types.StorageClassGlacier })
	type found struct {
		format string
		reason Reason
		unsure bool
	}
	unknown := found{"s3-client-v2", ReasonEnvelopeFormat, true}
	for envelopes, want := range map[Envelopes]map[found]int64{
		EnvelopesOff:      {},
		EnvelopesMetadata: {{"s3-client-v2", "", false}: 1, unknown: 1},
		EnvelopesContent:  {{"s3-client-v2", "", false}: 1, unknown: 1, {"sops", ReasonEnvelopeFile, false}: 1, {"", ReasonEnvelopeUnread, true}: 1},
	} {
		s, err := w.engine().Survey(t.Context(), Scope{Bucket: bucket}, w.a, envelopes, nil)
		w.must(err)
		got := map[found]int64{}
		for _, g := range s.Groups {
			if g.Sealed {
				got[found{g.Envelope, g.Reason, g.Unsure}] += g.Versions
			}
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(found{})); d != "" || s.Read != 5 {
			t.Errorf("%s: of %d read (-want +got):\n%s", envelopes, s.Read, d)
		}
	}
	w.disable(w.a)
	s, err := w.engine().Survey(t.Context(), Scope{Bucket: bucket}, w.a, EnvelopesMetadata, nil)
	w.must(err)
	for _, g := range s.Groups {
		if g.Sealed && !g.Unsure {
			t.Errorf("of a disabled key: %+v", g)
		}
	}
}

// While an old key is disabled KMS does not say what is under it, and nobody else can.
func TestDataKeysUnderADisabledKey(t *testing.T) {
	w := newWorld(t)
	for key, under := range map[string]string{"a": w.a, "b": w.b, "c": w.c} {
		w.seal("v2", key, under, func(in *s3.PutObjectInput) { in.SSEKMSKeyId = &w.other })
	}
	w.disable(w.c)
	rows := map[string]Reason{}
	s, err := w.engine().Run(t.Context(), RunOptions{
		Bucket: bucket, From: []string{w.a, w.c}, To: w.b, Envelopes: EnvelopesMetadata, Row: func(_ int, r Refusal) { rows[r.Key] = r.Reason },
	}, nil)
	w.must(err)
	if d := cmp.Diff(map[string]Reason{"c": ReasonKeyUnusable}, rows); d != "" || s.Moved != 1 || s.Skipped != 1 {
		t.Errorf("%s%+v", d, s.Counts)
	}
	if now := w.open("v2", w.snapshot(), "a"); now.under != w.b {
		t.Error("what can be moved was not")
	}
	// A survey of the disabled key knows what is under the key of the object itself.
	w.seal("v2", "d", w.b, func(in *s3.PutObjectInput) { in.SSEKMSKeyId = &w.b })
	survey, err := w.engine().Survey(t.Context(), Scope{Bucket: bucket}, w.c, EnvelopesMetadata, nil)
	w.must(err)
	unsure := map[string]int64{}
	for _, g := range survey.Groups {
		if g.Sealed != g.Unsure {
			t.Errorf("%+v", g)
		}
		if g.Unsure {
			unsure[g.Key] += g.Versions
		}
	}
	if d := cmp.Diff(map[string]int64{w.other: 3}, unsure); d != "" {
		t.Error(d)
	}
}

// Without RewriteFiles a body stays what it is, and a permission of KMS that is missing
// stops nothing else.
func TestDataKeysThatAreNotAllowedToMove(t *testing.T) {
	for name, tc := range map[string]struct {
		options RunOptions
		denied  string
		reasons map[Reason]int64
		moved   int64
	}{
		"off":                 {RunOptions{}, "", map[Reason]int64{ReasonOtherKey: 10}, 0},
		"metadata":            {RunOptions{Envelopes: EnvelopesMetadata}, "", map[Reason]int64{ReasonOtherKey: 6}, 4},
		"content":             {RunOptions{Envelopes: EnvelopesContent}, "", map[Reason]int64{ReasonOtherKey: 2, ReasonEnvelopeFile: 4}, 4},
		"all":                 {RunOptions{Envelopes: EnvelopesContent, RewriteFiles: true}, "", map[Reason]int64{ReasonOtherKey: 2}, 8},
		"KMS denies it":       {RunOptions{Envelopes: EnvelopesContent, RewriteFiles: true}, "kms:ReEncryptTo", map[Reason]int64{ReasonOtherKey: 2, ReasonEnvelopeKMS: 8}, 0},
		"S3 denies the write": {RunOptions{Envelopes: EnvelopesContent, RewriteFiles: true}, "s3:PutObject", map[Reason]int64{ReasonOtherKey: 2, ReasonRejected: 8}, 0},
		"a dry run":           {RunOptions{Envelopes: EnvelopesContent, RewriteFiles: true, DryRun: true}, "", map[Reason]int64{ReasonOtherKey: 2}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for name := range Sealings {
				w.seal(name, name, w.a, func(in *s3.PutObjectInput) { in.SSEKMSKeyId = &w.other })
			}
			before := w.snapshot()
			cfg := inprocess.Config(w.aws, "us-east-1", "worker")
			if tc.denied != "" {
				w.aws.SetIdentityPolicy("worker", func(action, resource string) bool {
					return action != tc.denied || strings.Contains(resource, stateBucket)
				})
			}
			o := tc.options
			o.Bucket, o.From, o.To = bucket, []string{w.a}, w.b
			s, err := w.engine(func(o *Options) { o.KMS = kms.NewFromConfig(cfg) }).Run(t.Context(), o, nil)
			w.must(err)
			if s.Moved != tc.moved || fmt.Sprint(s.ByReason) != fmt.Sprint(tc.reasons) || s.Scanned != 10 || s.Failed != 0 {
				t.Errorf("%+v", s.Counts)
			}
			if after := w.snapshot(); (tc.moved == 0 || o.DryRun) && fmt.Sprint(before) != fmt.Sprint(after) {
				t.Error("it has changed")
			}
		})
	}
}

// A writer that comes between what is read and what is written wins.
func TestDataKeysOfWhatIsWrittenMeanwhile(t *testing.T) {
	for _, operation := range []string{"HeadObject", "GetObject", "ReEncrypt", "CopyObject", "PutObject"} {
		for _, name := range []string{"v3", "sops", "v2-instruction"} {
			w := newWorld(t)
			w.seal(name, "key", w.a)
			var written atomic.Bool
			again := w.open(name, w.snapshot(), "key")
			stop := w.aws.Observe(func(r localaws.Request) {
				if r.Operation == operation && (r.Service == "kms" || strings.HasPrefix(r.Path, "/"+bucket+"/")) && written.CompareAndSwap(false, true) {
					w.seal(name, "key", w.a, func(in *s3.PutObjectInput) { in.Tagging = aws.String("by=another") })
					again = w.open(name, w.snapshot(), "key")
				}
			})
			s, err := w.engine().Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Envelopes: EnvelopesContent, RewriteFiles: true}, nil)
			stop()
			w.must(err)
			all := w.snapshot()
			again.under = w.b
			if now := w.open(name, all, "key"); now != again || s.Failed+s.Refused != 0 {
				t.Errorf("%s, written before %s: %+v, want %+v; %+v", name, operation, now, again, s.Counts)
			}
			for _, o := range all {
				if written.Load() != (len(o.Tags) == 1) || o.KMSKey != w.b {
					t.Errorf("%s, written before %s: %+v", name, operation, o)
				}
			}
		}
	}
}

// A survey moves nothing, and yet does not ask KMS about more data keys a second than the
// engine moves objects.
func TestSurveysAskAtTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		for i := range 60 {
			w.seal("v2", fmt.Sprint(i), w.a)
		}
		e := w.engine(func(o *Options) { o.Rate = 20 })
		for name, look := range map[string]func() (Survey, error){
			"survey": func() (Survey, error) {
				return e.Survey(t.Context(), Scope{Bucket: bucket}, w.a, EnvelopesMetadata, nil)
			},
			"plan": func() (Survey, error) {
				p, err := e.Plan(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Envelopes: EnvelopesMetadata}, 0, nil)
				return p.Survey, err
			},
			"forecast": func() (Survey, error) {
				p, err := e.Forecast(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, Envelopes: EnvelopesMetadata}, 0, nil)
				return p.Survey, err
			},
		} {
			began := time.Now()
			s, err := look()
			w.must(err)
			sealed := int64(0)
			for _, g := range s.Groups {
				if g.Sealed && !g.Unsure {
					sealed += g.Versions
				}
			}
			if took := time.Since(began); sealed != 60 || took < 2900*time.Millisecond || took > 4*time.Second {
				t.Errorf("%s: %d of 60 in %s", name, sealed, took)
			}
		}
	})
}

// What others write while a survey looks at it is looked at again, and not taken for gone.
func TestSurveyOfWhatIsWrittenMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		write := func() {
			_, file, _ := Sealings["sops"].Write(w.keys(), w.a, "x")
			w.put("key", w.other, func(in *s3.PutObjectInput) {
				in.Body = strings.NewReader(file + "#" + strings.Repeat("x", clientside.HeadSize))
			})
		}
		write()
		for name, tc := range map[string]struct {
			writes         int32
			sealed, unread int64
		}{"once": {1, 1, 0}, "always": {100, 0, 1}} {
			var reads, written atomic.Int32
			stop := w.aws.Observe(func(r localaws.Request) {
				// The second reading is of the whole.
				if r.Operation == "GetObject" && reads.Add(1)%2 == 0 && written.Add(1) <= tc.writes {
					write()
				}
			})
			survey, err := w.engine().Survey(t.Context(), Scope{Bucket: bucket}, w.a, EnvelopesContent, nil)
			stop()
			w.must(err)
			var sealed, unread int64
			for _, g := range survey.Groups {
				if g.Sealed {
					sealed += g.Versions
				}
				if g.Reason == ReasonError {
					unread += g.Versions
				}
			}
			if sealed != tc.sealed || unread != tc.unread {
				t.Errorf("%s: %d hold a data key, %d are not known; %+v", name, sealed, unread, survey.Groups)
			}
		}
	})
}
