package reencrypt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	account  = "111122223333"
	aliasARN = "arn:aws:kms:us-east-1:" + account + ":alias/data"
)

// world is an AWS account in this process with a state bucket, a jobs queue, a
// data bucket and four keys.
type world struct {
	t       testing.TB
	aws     *localaws.Server
	s3      *s3.Client
	kms     *kms.Client
	sqs     *sqs.Client
	store   *state.Store
	queue   string
	a, b, c string // key ARNs
	other   string
	told    told
}

const bucket, stateBucket = "data", "state"

// told is an Observer that remembers, and fails as often as it is asked to.
type told struct {
	mu                 sync.Mutex
	completed, stalled []Summary
	warned             []Summary
	failures           int
}

func (o *told) Completed(_ context.Context, s Summary) error { return o.tell(&o.completed, s) }
func (o *told) Warned(_ context.Context, s Summary) error    { return o.tell(&o.warned, s) }
func (o *told) Stalled(_ context.Context, s Summary) error   { return o.tell(&o.stalled, s) }

func (o *told) tell(list *[]Summary, s Summary) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failures > 0 {
		o.failures--
		return errors.New("the observer is not well")
	}
	*list = append(*list, s)
	return nil
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, aws: localaws.New(localaws.Options{Account: account})}
	t.Cleanup(w.aws.Close)
	cfg := inprocess.Config(w.aws, "us-east-1", "operator")
	w.kms, w.sqs = kms.NewFromConfig(cfg), sqs.NewFromConfig(cfg)
	w.s3 = w.client("operator")
	for _, name := range []string{bucket, stateBucket} {
		_, err := w.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name})
		w.must(err)
	}
	q, err := w.sqs.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("jobs")})
	w.must(err)
	w.queue = *q.QueueUrl
	w.store = state.New(w.s3, stateBucket, "cmkeeper/", account)
	for _, key := range []*string{&w.a, &w.b, &w.c, &w.other} {
		out, err := w.kms.CreateKey(t.Context(), &kms.CreateKeyInput{})
		w.must(err)
		*key = *out.KeyMetadata.Arn
	}
	return w
}

// client returns an S3 client that signs as somebody.
func (w *world) client(who string) *s3.Client {
	return s3.NewFromConfig(inprocess.Config(w.aws, "us-east-1", who), func(o *s3.Options) {
		o.UsePathStyle = true
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// engine returns an engine of one worker of the fleet.
func (w *world) engine(change ...func(*Options)) *Engine {
	o := Options{
		S3: awsclient.S3(inprocess.Config(w.aws, "us-east-1", "worker"), aws.Bool(true)), Resolver: inventory.New(w.kms, w.s3, account, "us-east-1"), KMS: w.kms, Account: account,
		Store: w.store, StateBucket: stateBucket, StatePrefix: "cmkeeper/", SQS: w.sqs, QueueURL: w.queue, Observer: &w.told,
		Concurrency: 16, SliceSize: 50,
	}
	for _, f := range change {
		f(&o)
	}
	e, err := New(o)
	w.must(err)
	return e
}

func (w *world) versioning(status types.BucketVersioningStatus) {
	_, err := w.s3.PutBucketVersioning(w.t.Context(), &s3.PutBucketVersioningInput{
		Bucket: aws.String(bucket), VersioningConfiguration: &types.VersioningConfiguration{Status: status},
	})
	w.must(err)
}

// put stores an object under a key of KMS and returns its version.
func (w *world) put(key, kmsKey string, change ...func(*s3.PutObjectInput)) string {
	w.t.Helper()
	in := &s3.PutObjectInput{
		Bucket: aws.String(bucket), Key: &key, Body: strings.NewReader("body of " + key),
		ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &kmsKey,
	}
	for _, f := range change {
		f(in)
	}
	out, err := w.s3.PutObject(w.t.Context(), in)
	w.must(err)
	return aws.ToString(out.VersionId)
}

func (w *world) disable(key string) {
	w.t.Helper()
	_, err := w.kms.DisableKey(w.t.Context(), &kms.DisableKeyInput{KeyId: &key})
	w.must(err)
}

// seen is all that can be seen of an object version, read without the product's
// code. What a copy may change stands apart.
type seen struct {
	Key                string
	DeleteMarker       bool
	Body               string
	Encryption         string
	BucketKey          bool
	StorageClass       string
	Headers            [7]string
	Metadata           map[string]string
	Tags, Grants       []string
	Lock               [3]string
	Checksum           string
	KMSKey             string
	Version            string
	Latest             bool
	ETag, LastModified string
}

// snapshot reads all versions of all objects in the data bucket.
func (w *world) snapshot() []seen {
	w.t.Helper()
	var all []seen
	in := &s3.ListObjectVersionsInput{Bucket: aws.String(bucket), EncodingType: types.EncodingTypeUrl}
	for {
		out, err := w.s3.ListObjectVersions(w.t.Context(), in)
		w.must(err)
		decoded := func(s *string) string {
			key, err := url.QueryUnescape(aws.ToString(s))
			w.must(err)
			return key
		}
		for _, v := range out.Versions {
			all = append(all, seen{Key: decoded(v.Key), Version: *v.VersionId, Latest: *v.IsLatest})
		}
		for _, m := range out.DeleteMarkers {
			all = append(all, seen{Key: decoded(m.Key), Version: *m.VersionId, Latest: *m.IsLatest, DeleteMarker: true})
		}
		if !aws.ToBool(out.IsTruncated) {
			break
		}
		in.KeyMarker, in.VersionIdMarker = aws.String(decoded(out.NextKeyMarker)), out.NextVersionIdMarker
	}
	var g errgroup.Group
	g.SetLimit(16)
	for i := range all {
		g.Go(func() error { return w.see(&all[i]) })
	}
	w.must(g.Wait())
	return all
}

func (w *world) see(o *seen) error {
	if o.DeleteMarker {
		return nil
	}
	ctx := w.t.Context()
	h, err := w.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: &o.Key, VersionId: &o.Version, ChecksumMode: types.ChecksumModeEnabled})
	switch {
	case hasCode(err, "InvalidObjectState"): // archived: all but the body
		head, err := w.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: &o.Key, VersionId: &o.Version})
		if err != nil {
			return err
		}
		o.Encryption, o.KMSKey, o.ETag = string(head.ServerSideEncryption), aws.ToString(head.SSEKMSKeyId), aws.ToString(head.ETag)
		return nil
	case err != nil:
		return fmt.Errorf("%q: %w", o.Key, err)
	}
	body, err := io.ReadAll(h.Body)
	if err != nil {
		return err
	}
	o.Body = string(body)
	o.Encryption, o.KMSKey, o.BucketKey = string(h.ServerSideEncryption), aws.ToString(h.SSEKMSKeyId), aws.ToBool(h.BucketKeyEnabled)
	o.StorageClass, o.Metadata = string(h.StorageClass), h.Metadata
	for i, s := range []*string{h.CacheControl, h.ContentDisposition, h.ContentEncoding, h.ContentLanguage, h.ContentType, h.ExpiresString, h.WebsiteRedirectLocation} {
		o.Headers[i] = aws.ToString(s)
	}
	o.Lock = [3]string{string(h.ObjectLockMode), string(h.ObjectLockLegalHoldStatus), fmt.Sprint(aws.ToTime(h.ObjectLockRetainUntilDate))}
	o.Checksum = aws.ToString(h.ChecksumCRC32) + "/" + aws.ToString(h.ChecksumSHA256) + "/" + aws.ToString(h.ChecksumCRC64NVME)
	o.ETag, o.LastModified = *h.ETag, h.LastModified.String()
	tags, err := w.s3.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: aws.String(bucket), Key: &o.Key, VersionId: &o.Version})
	if err != nil {
		return err
	}
	for _, t := range tags.TagSet {
		o.Tags = append(o.Tags, *t.Key+"="+*t.Value)
	}
	slices.Sort(o.Tags)
	acl, err := w.s3.GetObjectAcl(ctx, &s3.GetObjectAclInput{Bucket: aws.String(bucket), Key: &o.Key, VersionId: &o.Version})
	if err != nil {
		return err
	}
	for _, g := range acl.Grants {
		o.Grants = append(o.Grants, fmt.Sprint(aws.ToString(g.Grantee.ID), aws.ToString(g.Grantee.URI), g.Permission))
	}
	slices.Sort(o.Grants)
	return nil
}

// refusedRows reads a job's whole report: reasons by key and version.
func (w *world) refusedRows(job string) map[[2]string]Reason {
	w.t.Helper()
	rows := map[[2]string]Reason{}
	r, err := w.store.GetBlob(w.t.Context(), "jobs/"+job+"/report.jsonl")
	if errors.Is(err, state.ErrNotFound) {
		return rows
	}
	w.must(err)
	defer func() { _ = r.Close() }()
	for row := range readRows(w.t, r) {
		rows[[2]string{row.Key, row.Version}] = row.Reason
	}
	return rows
}

// fleet is a driver of engines that does what package worker does, one round at
// a time: receive, handle, delete; it can handle each message twice, by two
// engines at a time.
type fleet struct {
	*world
	engines []*Engine
	twice   bool
	// handled counts messages by kind.
	handled, plans int
	// fail, where not nil, is asked before each message.
	cancel func(n int, cancel context.CancelFunc)
}

// work handles messages until the queue is empty; it has to run in a bubble,
// where waiting takes no time.
func (f *fleet) work() {
	f.t.Helper()
	for idle := 0; idle < 3; {
		// As long as the longest delay a message may have.
		out, err := f.sqs.ReceiveMessage(f.t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &f.queue, MaxNumberOfMessages: 10, WaitTimeSeconds: 20, VisibilityTimeout: 120,
		})
		f.must(err)
		if len(out.Messages) == 0 {
			idle++
			time.Sleep(2 * time.Minute)
			continue
		}
		idle = 0
		var g sync.WaitGroup
		for i, m := range out.Messages {
			f.handled++
			if strings.Contains(*m.Body, `"plan":true`) {
				f.plans++
			}
			n := f.handled
			g.Go(func() {
				if f.twice {
					var second sync.WaitGroup
					second.Go(func() { _ = f.engines[(i+1)%len(f.engines)].Handle(f.t.Context(), []byte(*m.Body)) })
					defer second.Wait()
				}
				ctx, cancel := context.WithCancel(f.t.Context())
				defer cancel()
				if f.cancel != nil {
					f.cancel(n, cancel)
				}
				f.finish(*m.Body, *m.ReceiptHandle, f.engines[i%len(f.engines)].Handle(ctx, []byte(*m.Body)))
			})
		}
		g.Wait()
	}
}

func (f *fleet) finish(body, receipt string, err error) {
	ctx := f.t.Context()
	switch d := outcome.Of(err); d.Action {
	case outcome.Delete:
	case outcome.Delay:
		_, err := f.sqs.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &f.queue, MessageBody: &body, DelaySeconds: int32(d.After / time.Second)})
		if err != nil {
			f.t.Error(err)
		}
	case outcome.DeadLetter:
		f.t.Errorf("message %s is rejected: %v", body, err)
	default:
		f.t.Logf("message %s: %v", body, err)
		return // it comes back
	}
	if _, err := f.sqs.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &f.queue, ReceiptHandle: &receipt}); err != nil {
		f.t.Error(err)
	}
}

func (w *world) move(at time.Time, to string, from ...string) Move {
	return Move{AliasARN: aliasARN, From: from, To: to, At: at, Scope: []Scope{{Bucket: bucket}}}
}

// count sums up a map.
func total(m map[Reason]int64) (n int64) {
	for v := range maps.Values(m) {
		n += v
	}
	return n
}

func bodyOf(n int) io.Reader { return bytes.NewReader(bytes.Repeat([]byte("0123456789abcdef"), n/16)) }
