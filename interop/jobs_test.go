package interop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/state"
)

// version is an object version of the data bucket.
type version struct {
	key, id string
	latest  bool
}

// layer is what the key begins with, and name what apps calls it.
func (v version) layer() string { layer, _, _ := strings.Cut(v.key, "/"); return layer }
func (v version) name() string  { _, name, _ := strings.Cut(v.key, "/"); return name }

func (w *world) versions(t *testing.T) []version {
	t.Helper()
	var all []version
	pages := s3.NewListObjectVersionsPaginator(w.s3, &s3.ListObjectVersionsInput{Bucket: aws.String(bucket)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Versions {
			all = append(all, version{*v.Key, *v.VersionId, *v.IsLatest})
		}
	}
	return all
}

// layers are the encryptions of S3's own below which objects lie: by which KMS key, "" for
// that of S3, before and after the job.
func (w *world) layers(other string) map[string]struct{ before, after string } {
	return map[string]struct{ before, after string }{
		"old": {w.old, w.new}, "new": {w.new, w.new}, "other": {other, other}, "sse-s3": {"", ""},
	}
}

// spread puts what was written below each layer, and takes it away from where it was.
func (w *world) spread(t *testing.T, other string, times int) {
	t.Helper()
	for _, v := range w.versions(t) {
		body, metadata := w.body(t, v.key), w.head(t, v.key)
		for name, layer := range w.layers(other) {
			in := &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(name + "/" + v.name()), Metadata: metadata, ServerSideEncryption: types.ServerSideEncryptionAes256}
			if layer.before != "" {
				in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAwsKms, &layer.before
			}
			for range times {
				in.Body = bytes.NewReader(body)
				if _, err := w.s3.PutObject(t.Context(), in); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := w.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: &v.key, VersionId: &v.id}); err != nil {
			t.Fatal(err)
		}
	}
}

// callsOfKMS counts, by operation, the calls that a user made since a record of the trail:
// its own, and those of S3 on its behalf. Those that tell of a key, and nothing of what it
// encrypts, are left out.
func (w *world) callsOfKMS(t *testing.T, user string, since int) (own, byS3 map[string]int) {
	t.Helper()
	own, byS3 = map[string]int{}, map[string]int{}
	history := w.server.Trail().History()
	if last := history[len(history)-1].Number; last > since+1 {
		t.Fatalf("the trail has forgotten what was before record %d", last)
	}
	for _, k := range history {
		r := k.Record()
		switch {
		case k.Number <= since:
			return own, byS3
		case r.EventSource != "kms.amazonaws.com" || r.UserIdentity.AccessKeyID != user,
			strings.HasPrefix(r.EventName, "Describe"), strings.HasPrefix(r.EventName, "List"), strings.HasPrefix(r.EventName, "GetKey"):
		case r.UserIdentity.InvokedBy == trail.AWSInternal:
			byS3[r.EventName]++
		case r.ErrorCode == "DryRunOperationException":
			own["dry run of "+r.EventName]++
		default:
			own[r.EventName]++
		}
	}
	return own, byS3
}

// answer returns KMS's error code of the last call of Decrypt by the application itself.
func (w *world) answer(t *testing.T) string {
	t.Helper()
	for _, k := range w.server.Trail().History() {
		if r := k.Record(); r.EventSource == "kms.amazonaws.com" && r.EventName == "Decrypt" && r.UserIdentity.InvokedBy == "" {
			return r.ErrorCode
		}
	}
	return "never asked"
}

// summaries is an observer of jobs, which are handled one message at a time.
type summaries struct{ all []reencrypt.Summary }

func (o *summaries) Completed(_ context.Context, s reencrypt.Summary) error {
	o.all = append(o.all, s)
	return nil
}
func (*summaries) Warned(context.Context, reencrypt.Summary) error { return nil }
func (*summaries) Stalled(_ context.Context, s reencrypt.Summary) error {
	return fmt.Errorf("stalled: %s", s.Cause)
}

// result is what came of a job.
type result struct {
	reencrypt.Summary
	rows rows // of the last pass
}

// rows are why versions did not move, by key and id.
type rows map[[2]string]reencrypt.Reason

func (r rows) add(f reencrypt.Refusal) {
	id := f.Version
	if id == "" { // the bucket has no versions
		id = "null"
	}
	r[[2]string{f.Key, id}] = f.Reason
}

// options are those of an engine whose user is worker.
func (w *world) options(t *testing.T) (reencrypt.Options, *summaries) {
	t.Helper()
	cfg := inprocess.Config(w.server, region, "worker")
	queues := sqs.NewFromConfig(cfg)
	queue, err := queues.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("jobs")})
	if err != nil {
		t.Fatal(err)
	}
	w.createBucket(t, "state")
	buckets, keys, told := awsclient.S3(cfg, aws.Bool(true)), kms.NewFromConfig(cfg), &summaries{}
	return reencrypt.Options{
		S3: buckets, KMS: keys, Resolver: inventory.New(keys, buckets, account, region), Account: account,
		Store: state.New(buckets, "state", "cmkeeper/", account), StateBucket: "state", StatePrefix: "cmkeeper/", SQS: queues, QueueURL: *queue.QueueUrl, Observer: told,
		Concurrency: 8, SliceSize: 50, MaxCopySize: 5 << 20, PartSize: 5 << 20, // S3's bound is 5 GiB
		Envelopes: reencrypt.EnvelopesContent, RewriteFiles: true,
	}, told
}

// run moves the bucket in one process.
func (w *world) run(t *testing.T, method reencrypt.Method) result {
	t.Helper()
	o, _ := w.options(t)
	engine, err := reencrypt.New(o)
	if err != nil {
		t.Fatal(err)
	}
	got, last := rows{}, 0
	sum, err := engine.Run(t.Context(), reencrypt.RunOptions{
		Bucket: bucket, From: []string{w.old}, To: w.new, Method: method, Envelopes: o.Envelopes, RewriteFiles: o.RewriteFiles,
		Row: func(pass int, r reencrypt.Refusal) {
			if pass != last {
				clear(got)
				last = pass
			}
			got.add(r)
		},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return result{sum, got}
}

// fleet moves the bucket as a job does that the move of the alias has started, in slices and
// by messages.
func (w *world) fleet(t *testing.T, method reencrypt.Method) result {
	t.Helper()
	o, told := w.options(t)
	o.Method = method
	engine, err := reencrypt.New(o)
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := engine.Start(t.Context(), reencrypt.Move{AliasARN: w.alias, From: []string{w.old}, To: w.new, At: time.Now(), Scope: []reencrypt.Scope{{Bucket: bucket}}})
	if err != nil {
		t.Fatal(err)
	}
	handled := 0
	for len(told.all) == 0 {
		out, err := o.SQS.(*sqs.Client).ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &o.QueueURL, WaitTimeSeconds: 20})
		if err != nil || len(out.Messages) == 0 {
			t.Fatalf("the job is not complete and nothing is left to do: %v", err)
		}
		for _, m := range out.Messages {
			handled++
			if err := engine.Handle(t.Context(), []byte(*m.Body)); outcome.Of(err).Action != outcome.Delete {
				t.Fatal(err)
			}
			if _, err := o.SQS.(*sqs.Client).DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &o.QueueURL, ReceiptHandle: m.ReceiptHandle}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if handled < 6 {
		t.Errorf("the job was one of %d messages", handled)
	}
	got := rows{}
	for r, err := range engine.ReportRows(t.Context(), jobs[0]) {
		if err != nil {
			t.Fatal(err)
		}
		got.add(r)
	}
	return result{told.all[0], got}
}

// A whole job moves what others wrote, the old KMS key is deleted, and the others read it.
func TestJobs(t *testing.T) {
	for _, c := range []struct {
		name      string
		method    reencrypt.Method
		versioned bool
		// aliasLater: the alias moves when the job is done, and not before it.
		aliasLater bool
		move       func(*world, *testing.T, reencrypt.Method) result
		passes     int
	}{
		{"update", reencrypt.MethodUpdate, false, false, (*world).run, 2},
		{"update, the alias moves later", reencrypt.MethodUpdate, false, true, (*world).run, 2},
		{"copy", reencrypt.MethodCopy, false, false, (*world).run, 2},
		// The second pass moves what the first has made noncurrent.
		{"update, versions", reencrypt.MethodUpdate, true, false, (*world).run, 3},
		{"copy, versions", reencrypt.MethodCopy, true, false, (*world).run, 2},
		{"fleet", reencrypt.MethodAuto, false, false, (*world).fleet, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			foreign, other := w.createKey(t), w.createKey(t)
			all := apps(t, w, foreign)
			times := 1
			if c.versioned {
				times = 2
				if _, err := w.s3.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
					Bucket: aws.String(bucket), VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
				}); err != nil {
					t.Fatal(err)
				}
			}
			w.spread(t, other, times)
			w.readAll(t, all, other, func(_ stored, name string) string {
				if name == w.new {
					return "IncorrectKeyException"
				}
				return ""
			})
			if !c.aliasLater {
				w.moveAlias(t)
				// Until the job has moved an object, who names the alias cannot read it.
				w.readAll(t, all, other, func(s stored, name string) string {
					if name == w.new || name == w.alias || s.alias {
						return "IncorrectKeyException"
					}
					return ""
				})
			}

			before, since := w.versions(t), w.server.Trail().History()[0].Number
			got := c.move(w, t, c.method)
			own, byS3 := w.callsOfKMS(t, "worker", since)
			after := w.versions(t)

			if len(before) != times*len(all)*4 || got.State != reencrypt.StateComplete || got.Failed != 0 || got.Passes != c.passes || got.Scanned != int64(len(after)) {
				t.Errorf("of %d versions, %d afterwards: %+v", len(before), len(after), got.Summary)
			}
			// Each pass asks once for each key that the data key in a version may be under.
			asked := func(versions []version) (n int) {
				for _, v := range versions {
					if c.method != reencrypt.MethodCopy || v.latest || v.layer() != "old" { // else its turn does not come
						n += all[v.name()].asks
					}
				}
				return n
			}
			want := map[string]int{"ReEncrypt": asked(before) + (c.passes-1)*asked(after)}
			if c.name == "fleet" {
				want["dry run of ReEncrypt"] = 1 // of the preflight
			}
			if diff := cmp.Diff(want, own); diff != "" {
				t.Errorf("the worker's own calls of KMS: %s", diff)
			}
			if byS3["Decrypt"] == 0 || byS3["GenerateDataKey"] == 0 {
				t.Errorf("calls of S3 for the worker: %v", byS3)
			}
			if parts := w.server.Requests("s3", "UploadPartCopy"); parts != 4*2 { // one object in two parts below each layer
				t.Errorf("%d parts were copied", parts)
			}
			w.checkRows(t, c.method, all, after, got)
			w.checkLayers(t, after, other)

			w.readAll(t, all, other, func(s stored, name string) string {
				if s.stays == "" && (name == w.old || name == w.alias && c.aliasLater) {
					return "IncorrectKeyException"
				}
				return ""
			})
			w.retire(t)
			w.server.KMS().EndWaiting(w.old)
			if _, err := w.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &foreign}); err != nil { // which would open files of SOPS
				t.Fatal(err)
			}
			// S3 reads every version that the report does not name.
			for _, v := range after {
				out, err := w.s3.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: &v.key, VersionId: &v.id})
				if err == nil {
					_, err = io.Copy(io.Discard, out.Body)
				}
				if _, named := got.rows[[2]string{v.key, v.id}]; err != nil && !named {
					t.Errorf("%s, version %s: %v", v.key, v.id, err)
				}
			}
			w.readAll(t, all, other, func(s stored, name string) string {
				switch {
				case s.stays == reencrypt.ReasonEnvelopeKMS && name == "":
					return "AccessDenied"
				case s.stays != "" || name == w.old:
					return "NotFoundException"
				}
				return ""
			})
		})
	}
}

// readAll has everything read by everybody, and compares what KMS answers the application.
func (w *world) readAll(t *testing.T, all map[string]stored, other string, want func(s stored, name string) string) {
	t.Helper()
	for layer := range w.layers(other) {
		for key, s := range all {
			for _, name := range s.readers {
				got, err := s.read(layer+"/"+key, name)
				code := want(s, name)
				switch {
				case code == "" && (err != nil || got != s.want):
					t.Errorf("%s/%s read with %q: %.20q, %v", layer, key, name, got, err)
				case code != "" && (err == nil || w.answer(t) != code):
					t.Errorf("%s/%s read with %q: %v, KMS answers %q; want %s", layer, key, name, err, w.answer(t), code)
				}
			}
		}
	}
}

// checkRows compares the report with what has to be in it.
func (*world) checkRows(t *testing.T, method reencrypt.Method, all map[string]stored, after []version, got result) {
	t.Helper()
	want := rows{}
	formats := map[string]int64{}
	for _, v := range after {
		s := all[v.name()]
		reason := s.stays
		switch {
		case method == reencrypt.MethodCopy && !v.latest && v.layer() == "old":
			reason = reencrypt.ReasonNoncurrent
		case s.asks > 0 && s.stays == "" && !v.latest:
			reason = reencrypt.ReasonNoncurrent
		}
		if reason != "" {
			want[[2]string{v.key, v.id}] = reason
		}
		for _, part := range []struct{ name, format string }{{"v2, RSA", "s3-client-v2, not KMS"}, {"encryption SDK", "aws-encryption-sdk"}} {
			if strings.HasPrefix(v.name(), part.name) && (v.latest || method != reencrypt.MethodCopy || v.layer() != "old") {
				formats[part.format]++
			}
		}
	}
	if diff := cmp.Diff(want, got.rows); diff != "" {
		t.Errorf("the report: %s", diff)
	}
	for format, n := range formats {
		if got.Envelopes[format] != n {
			t.Errorf("%d of %s are counted, want %d", got.Envelopes[format], format, n)
		}
	}
}

// checkLayers checks S3's own encryption of the newest versions.
func (w *world) checkLayers(t *testing.T, after []version, other string) {
	t.Helper()
	for _, v := range after {
		if !v.latest {
			continue
		}
		h, err := w.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: &v.key})
		if err != nil {
			t.Fatal(err)
		}
		if want := w.layers(other)[v.layer()].after; aws.ToString(h.SSEKMSKeyId) != want {
			t.Errorf("%s is under %s, want %s", v.key, aws.ToString(h.SSEKMSKeyId), want)
		}
	}
}
