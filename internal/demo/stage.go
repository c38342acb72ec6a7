package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

const (
	// operator is the access key of the IAM user who owns the data and moves its alias.
	operator = "operator"

	rotatingAlias = "alias/demo-payments"
	policyAlias   = "alias/demo-reports"
	doomedAlias   = "alias/demo-backups"
	dataAlias     = "alias/demo-data"
	ledgerAlias   = "alias/demo-ledger"

	rotationPeriod = 180
	lockedKey      = "contracts/signed.pdf"
	parallel       = 32
)

// stage is the account before the first call.
type stage struct {
	box     *sandbox.Sandbox
	s3      *s3.Client
	policy  string   // the default key policy, as a compact document
	buckets []string // of the first act
	ledgers []string // of the second
	// sealed is what the application encrypted itself, by bucket and key.
	sealed map[version]secret

	rotatingKey, policyKey, doomedKey, oldKey, newKey, otherKey, ledgerKey string // ARNs
}

// bucket describes one of the demo's buckets.
type bucket struct {
	name      string
	key       string // its default encryption names
	versioned bool
	locking   bool
	prefixes  []string
	each      int // objects per prefix
	rewritten int // objects per prefix that get a second version
	classes   []s3types.StorageClass
}

var buckets = []bucket{
	{name: "demo-orders", key: dataAlias, versioned: true, prefixes: []string{"2023/", "2024/", "2025/"}, each: 250, rewritten: 50, classes: []s3types.StorageClass{s3types.StorageClassStandard}},
	{name: "demo-archive", key: dataAlias, prefixes: []string{"cold/", "warm/"}, each: 300, classes: []s3types.StorageClass{s3types.StorageClassStandardIa, s3types.StorageClassIntelligentTiering, s3types.StorageClassGlacierIr}},
	{name: "demo-contracts", key: dataAlias, versioned: true, locking: true, prefixes: []string{"drafts/", "final/"}, each: 250, rewritten: 20, classes: []s3types.StorageClass{s3types.StorageClassStandard, s3types.StorageClassOnezoneIa}},
	{name: vault, key: dataAlias},
}

// ledgers returns the buckets of the second act, one of which names the alias and one the key.
func ledgers(key string) []bucket {
	return []bucket{
		{name: "demo-ledger", key: ledgerAlias, versioned: true, locking: true, prefixes: []string{"q1/", "q2/"}, each: 50, rewritten: 10, classes: []s3types.StorageClass{s3types.StorageClassStandard, s3types.StorageClassStandardIa}},
		{name: "demo-invoices", key: key, prefixes: []string{"2025/"}, each: 50, classes: []s3types.StorageClass{s3types.StorageClassStandard}},
	}
}

// setStage creates keys, aliases, buckets and objects: objects for each prefix, or
// as many as in the full demo if it is zero.
func setStage(ctx context.Context, box *sandbox.Sandbox, objects int) (*stage, error) {
	cfg := box.Config(operator)
	st := &stage{box: box, s3: awsclient.S3(cfg, nil)}
	if err := st.employ(); err != nil {
		return nil, err
	}
	keys := kms.NewFromConfig(cfg)
	create := func(alias string) (string, error) {
		out, err := keys.CreateKey(ctx, &kms.CreateKeyInput{Description: aws.String("cmkeeper demo")})
		if err != nil {
			return "", err
		}
		arn := aws.ToString(out.KeyMetadata.Arn)
		if alias == "" {
			return arn, nil
		}
		_, err = keys.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &arn})
		return arn, err
	}
	for alias, key := range map[string]*string{
		rotatingAlias: &st.rotatingKey, policyAlias: &st.policyKey, doomedAlias: &st.doomedKey,
		dataAlias: &st.oldKey, "": &st.newKey, "alias/demo-unrelated": &st.otherKey, ledgerAlias: &st.ledgerKey,
	} {
		var err error
		if *key, err = create(alias); err != nil {
			return nil, fmt.Errorf("create the key of %q: %w", alias, err)
		}
	}
	if _, err := keys.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &st.rotatingKey, RotationPeriodInDays: aws.Int32(rotationPeriod)}); err != nil {
		return nil, err
	}
	policy, err := keys.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &st.policyKey, PolicyName: aws.String("default")})
	if err != nil {
		return nil, err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(aws.ToString(policy.Policy))); err != nil {
		return nil, err
	}
	st.policy = compact.String()

	if err := st.furnishLedger(ctx, keys); err != nil {
		return nil, fmt.Errorf("set up the key of %s: %w", ledgerAlias, err)
	}
	for _, b := range slices.Concat(buckets, ledgers(st.ledgerKey)) {
		if b.key == dataAlias {
			st.buckets = append(st.buckets, b.name)
		} else {
			st.ledgers = append(st.ledgers, b.name)
		}
		if objects > 0 {
			b.each, b.rewritten = objects, min(b.rewritten, objects/2)
		}
		if err := st.fill(ctx, b); err != nil {
			return nil, fmt.Errorf("fill %s: %w", b.name, err)
		}
	}
	return st, st.seal(ctx, keys)
}

// fill creates a bucket with its default encryption and its objects.
func (st *stage) fill(ctx context.Context, b bucket) error {
	if _, err := st.s3.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &b.name, ObjectLockEnabledForBucket: aws.Bool(b.locking)}); err != nil {
		return err
	}
	if b.versioned {
		if _, err := st.s3.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{
			Bucket: &b.name, VersioningConfiguration: &s3types.VersioningConfiguration{Status: s3types.BucketVersioningStatusEnabled},
		}); err != nil {
			return err
		}
	}
	if _, err := st.s3.PutBucketEncryption(ctx, &s3.PutBucketEncryptionInput{
		Bucket: &b.name,
		ServerSideEncryptionConfiguration: &s3types.ServerSideEncryptionConfiguration{Rules: []s3types.ServerSideEncryptionRule{{
			ApplyServerSideEncryptionByDefault: &s3types.ServerSideEncryptionByDefault{SSEAlgorithm: s3types.ServerSideEncryptionAwsKms, KMSMasterKeyID: &b.key},
			BucketKeyEnabled:                   aws.Bool(b.locking),
		}}},
	}); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, prefix := range b.prefixes {
		for i := range b.each {
			g.Go(func() error {
				in := object(b, prefix, i)
				if err := st.put(gctx, in); err != nil || i >= b.rewritten {
					return err
				}
				in.Body = strings.NewReader("second version of " + *in.Key)
				return st.put(gctx, in)
			})
		}
	}
	g.Go(func() error {
		return st.put(gctx, &s3.PutObjectInput{
			Bucket: &b.name, Key: aws.String("unrelated.txt"), Body: strings.NewReader("under a key of its own"),
			ServerSideEncryption: s3types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &st.otherKey,
		})
	})
	if b.locking {
		g.Go(func() error {
			return st.put(gctx, &s3.PutObjectInput{
				Bucket: &b.name, Key: aws.String(lockedKey), Body: strings.NewReader("signed, and locked for a year"),
				ObjectLockMode: s3types.ObjectLockModeCompliance, ObjectLockRetainUntilDate: aws.Time(time.Now().AddDate(1, 0, 0)),
			})
		})
	}
	return g.Wait()
}

func (st *stage) put(ctx context.Context, in *s3.PutObjectInput) error {
	_, err := st.s3.PutObject(ctx, in)
	return err
}

// object returns the i-th object of a prefix: all have metadata, some have tags,
// odd names and headers, so that the verifier notices if any of them is dropped.
func object(b bucket, prefix string, i int) *s3.PutObjectInput {
	names := []string{"%05d.json", "report %05d+a&b=c.txt", "größe-%05d.csv", "line\nbreak-%05d"}
	in := &s3.PutObjectInput{
		Bucket: &b.name, Key: aws.String(prefix + fmt.Sprintf(names[i%len(names)], i)),
		Body:         strings.NewReader(strings.Repeat(fmt.Sprintf("%s%d;", prefix, i), 1+i%50)),
		Metadata:     map[string]string{"owner": "team-" + string(rune('a'+i%3)), "row": fmt.Sprint(i)},
		StorageClass: b.classes[i%len(b.classes)],
		ContentType:  aws.String("application/x-demo"),
	}
	if i%4 == 0 {
		in.Tagging = aws.String(url.Values{"class": {"internal"}, "retain": {fmt.Sprint(i%7) + " years"}}.Encode())
	}
	if i%5 == 0 {
		in.CacheControl, in.ContentLanguage = aws.String("max-age=60"), aws.String("de")
		in.ContentDisposition = aws.String(`attachment; filename="x.txt"`)
		in.Expires = aws.Time(time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC))
	}
	return in
}

// notice is the part of a cmkeeper.alert.v1 document that the demo reads.
type notice struct {
	Schema   string `json:"schema"`
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Severity string `json:"severity"`
	Event    string `json:"event_name"`
	Title    string `json:"title"`
	Key      *struct {
		ARN string `json:"arn"`
	} `json:"key"`
	Findings []struct {
		ID string `json:"id"`
	} `json:"findings"`
	Facts []struct {
		Name   string   `json:"name"`
		Values []string `json:"values"`
	} `json:"facts"`
}

// fact returns a fact's first value, or "".
func (n notice) fact(name string) string {
	for _, f := range n.Facts {
		if f.Name == name && len(f.Values) > 0 {
			return f.Values[0]
		}
	}
	return ""
}

// about reports whether the alert is of the kind and, where key is not "", about the key.
func (n notice) about(kind, key string) bool {
	return n.Kind == kind && (key == "" || n.Key != nil && n.Key.ARN == key)
}

// awaitIdle waits until the worker has handled the events of setStage.
func (st *stage) awaitIdle(ctx context.Context, patience time.Duration) error {
	client := sqs.NewFromConfig(st.box.Config(operator))
	for deadline := time.Now().Add(patience); ; {
		out, err := client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
			QueueUrl: &st.box.EventsQueue, AttributeNames: []sqstypes.QueueAttributeName{"ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"},
		})
		if err != nil {
			return err
		}
		left := out.Attributes["ApproximateNumberOfMessages"] + "+" + out.Attributes["ApproximateNumberOfMessagesNotVisible"]
		if left == "0+0" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the worker did not handle the first events in %s: %s messages left", patience, left)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// awaitAlerts receives alerts until there is one for each of the four calls and a
// report for every bucket, or patience is over. The verifier reports what is missing.
func (st *stage) awaitAlerts(ctx context.Context, stopped <-chan error, patience time.Duration, say func(string, ...any)) ([]notice, error) {
	var all []notice
	deadline := time.Now().Add(patience)
	for !st.answered(all) && time.Now().Before(deadline) {
		select {
		case err := <-stopped:
			return nil, fmt.Errorf("the worker stopped early: %w", err)
		default:
		}
		bodies, err := st.box.Alerts(ctx, time.Second)
		if err != nil {
			return nil, err
		}
		for _, body := range bodies {
			var n notice
			if err := json.Unmarshal([]byte(body), &n); err != nil {
				return nil, fmt.Errorf("an alert is not JSON: %w", err)
			}
			all = append(all, n)
			say("  alert       %-8s %s", n.Severity, n.Title)
		}
	}
	return all, nil
}

// answered reports whether all expected alerts have arrived.
func (st *stage) answered(all []notice) bool {
	reported := map[string]bool{}
	for _, n := range all {
		if n.Kind == "reencryption" && strings.HasSuffix(n.ID, "/complete") { // a job with warnings reports its beginning, too
			reported[n.fact("bucket")] = true
		}
	}
	return len(missingAlerts(st, all)) == 0 && !slices.ContainsFunc(st.buckets, func(b string) bool { return !reported[b] })
}

func countsText(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[name], name))
	}
	return strings.Join(parts, ", ")
}
