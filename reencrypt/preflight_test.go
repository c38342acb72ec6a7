package reencrypt

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// named lists findings as "severity name".
func named(findings []Finding) []string {
	var all []string
	for _, f := range findings {
		all = append(all, string(f.Severity)+" "+f.Name)
	}
	return all
}

func TestJudge(t *testing.T) {
	const (
		oldARN, newARN = "arn:aws:kms:us-east-1:" + account + ":key/old", "arn:aws:kms:us-east-1:" + account + ":key/new"
		second         = "arn:aws:kms:us-east-1:" + account + ":key/second"
	)
	deny := func(condition string) func(*settings) {
		return func(f *settings) {
			f.policy = `{"Statement":{"Sid":"S","Effect":"Deny","Principal":"*","Action":["s3:Get*","s3:PutObject"],"Resource":"arn:aws:s3:::data/*","Condition":` + condition + `}}`
		}
	}
	copies := func(change func(*settings)) func(*settings) {
		return func(f *settings) { f.method = copyMethod{}; change(f) }
	}
	demands := func(operator, key string) string {
		return fmt.Sprintf(`{%q:{"s3:x-amz-server-side-encryption-aws-kms-key-id":%q}}`, operator, key)
	}
	byDefault := func(name, arn string) func(*settings) {
		return func(f *settings) {
			f.encryption = &types.ServerSideEncryptionRule{ApplyServerSideEncryptionByDefault: &types.ServerSideEncryptionByDefault{SSEAlgorithm: "aws:kms", KMSMasterKeyID: &name}}
			f.defaultKeyARN = arn
		}
	}
	rule := func(r types.LifecycleRule) func(*settings) {
		return copies(func(f *settings) { f.lifecycle = []types.LifecycleRule{r} })
	}
	for name, tt := range map[string]struct {
		change func(*settings)
		want   []string
	}{
		"all is well":                               {func(*settings) {}, nil},
		"not tried":                                 {func(f *settings) { f.tried = false }, []string{"note target-key"}},
		"the new key is gone":                       {func(f *settings) { f.to = keyFacts{arn: newARN, gone: true} }, []string{"stop target-key"}},
		"the new key is disabled":                   {func(f *settings) { f.to.state = "Disabled" }, []string{"stop target-key"}},
		"the new key is RSA":                        {func(f *settings) { f.to.spec = "RSA_2048" }, []string{"stop target-key"}},
		"the new key is AWS's":                      {func(f *settings) { f.to.manager = "AWS" }, []string{"warn target-key"}},
		"the new key is of others":                  {func(f *settings) { f.account = "999999999999" }, []string{"warn target-key"}},
		"S3 may not use the new key":                {func(f *settings) { f.triedError = "AccessDenied" }, []string{"stop target-key"}},
		"the old key is disabled":                   {func(f *settings) { f.from[0].state = "Disabled" }, []string{"stop old-key"}},
		"the old key is dying":                      {func(f *settings) { f.from[0].state = "PendingDeletion" }, []string{"stop old-key"}},
		"the old key is gone":                       {func(f *settings) { f.from[0] = keyFacts{arn: oldARN, gone: true} }, []string{"stop old-key"}},
		"one of two old keys is dying":              {func(f *settings) { f.from = append(f.from, keyFacts{arn: second, state: "PendingDeletion"}) }, []string{"warn old-key"}},
		"the old key cannot be read":                {func(f *settings) { f.from[0] = keyFacts{arn: oldARN} }, nil},
		"a dry run is refused":                      {func(f *settings) { f.from[0].dryRun = "AccessDeniedException" }, []string{"warn kms-dry-run"}},
		"a dry run is refused, the new key unread":  {func(f *settings) { f.to.state, f.from[0].dryRun = "", "AccessDeniedException" }, []string{"warn kms-dry-run"}},
		"a dry run is refused, the new key is gone": {func(f *settings) { f.to.gone, f.from[0].dryRun = true, "NotFoundException" }, []string{"stop target-key"}},
		"not readable": {func(f *settings) { f.unread = []unread{{what: "the policy"}, {what: "the list", stops: true}} },
			[]string{"stop unread", "warn unread"}},

		"policy demands the old key":            {copies(deny(demands("StringNotEquals", oldARN))), []string{"stop policy-demands-key"}},
		"policy demands the old key, update":    {deny(demands("StringNotEqualsIfExists", oldARN)), []string{"warn policy-demands-key"}},
		"policy demands the new key":            {copies(deny(demands("ArnNotLikeIfExists", "arn:aws:kms:*:key/new"))), nil},
		"policy demands the new key, update":    {deny(demands("StringNotEquals", newARN)), []string{"warn policy-demands-key"}},
		"policy refuses the new key":            {copies(deny(demands("StringEquals", newARN))), []string{"stop policy-demands-key"}},
		"policy refuses the old key":            {copies(deny(demands("StringEquals", oldARN))), nil},
		"policy demands any key":                {copies(deny(`{"Null":{"s3:x-amz-server-side-encryption-aws-kms-key-id":true}}`)), nil},
		"policy demands new objects":            {copies(deny(`{"Null":{"s3:if-none-match":"true"}}`)), []string{"stop policy-demands-condition"}},
		"policy demands conditional writes":     {copies(deny(`{"Null":{"s3:if-match":"true"}}`)), []string{"warn policy-demands-condition"}},
		"policy on another condition, too":      {copies(deny(`{"StringNotEquals":{"s3:x-amz-server-side-encryption-aws-kms-key-id":"x","aws:PrincipalArn":"y"}}`)), []string{"warn policy-demands-key"}},
		"policy is none":                        {func(f *settings) { f.policy = "{" }, []string{"warn unread"}},
		"policy denies reads":                   {func(f *settings) { f.policy = strings.ReplaceAll(denied, "ACTION", "s3:GetObject") }, nil},
		"policy denies all writes of other key": {copies(func(f *settings) { f.policy = strings.ReplaceAll(denied, "ACTION", "s3:*") }), []string{"stop policy-demands-key"}},

		"default is the old key":    {byDefault(oldARN, oldARN), []string{"warn bucket-default"}},
		"default is an alias of it": {byDefault("alias/old", oldARN), []string{"warn bucket-default"}},
		"default is the new key":    {byDefault(newARN, newARN), nil},
		"uploads":                   {func(f *settings) { f.uploads = 1 }, []string{"warn unfinished-uploads"}},
		"key policy on the context": {func(f *settings) { f.keyPolicy = `{"kms:EncryptionContext:aws:s3:arn":"x"}` }, []string{"note encryption-context"}},
		"replication": {func(f *settings) {
			f.replication = []types.ReplicationRule{{Destination: &types.Destination{Bucket: aws.String("arn:aws:s3:::b")}}}
		}, []string{"warn replication"}},
		"retention by default":            {func(f *settings) { f.defaultLock = true }, []string{"note object-lock-default"}},
		"retention by default, copies":    {copies(func(f *settings) { f.defaultLock = true }), []string{"warn object-lock-default"}},
		"notifications, update":           {func(f *settings) { f.notification.EventBridgeConfiguration = &types.EventBridgeConfiguration{} }, nil},
		"EventBridge, copies":             {copies(func(f *settings) { f.notification.EventBridgeConfiguration = &types.EventBridgeConfiguration{} }), []string{"warn notifications"}},
		"a queue of all new ones, copies": {copies(queue("s3:ObjectCreated:*")), []string{"warn notifications"}},
		"a queue of uploads, copies":      {copies(queue("s3:ObjectCreated:Put")), nil},
		"expiry":                          {rule(types.LifecycleRule{Expiration: &types.LifecycleExpiration{Days: aws.Int32(30)}}), []string{"warn lifecycle"}},
		"transition":                      {rule(types.LifecycleRule{Transitions: []types.Transition{{Days: aws.Int32(30)}}}), []string{"warn lifecycle"}},
		"expiry of old versions":          {rule(types.LifecycleRule{NoncurrentVersionExpiration: &types.NoncurrentVersionExpiration{}}), []string{"warn lifecycle"}},
		"expiry of uploads":               {rule(types.LifecycleRule{AbortIncompleteMultipartUpload: &types.AbortIncompleteMultipartUpload{}}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := settings{
				spec:    spec{Bucket: "data", From: []string{oldARN}, To: newARN, Versions: VersionsAll, Method: MethodAuto},
				account: account, method: updateMethod{}, tried: true, notification: &s3.GetBucketNotificationConfigurationOutput{},
				to:   keyFacts{arn: newARN, state: "Enabled", spec: "SYMMETRIC_DEFAULT", manager: "CUSTOMER"},
				from: []keyFacts{{arn: oldARN, state: "Enabled"}},
			}
			tt.change(&f)
			findings := judge(f)
			if diff := cmp.Diff(tt.want, named(findings)); diff != "" {
				t.Errorf("%s\n%+v", diff, findings)
			}
		})
	}
}

// denied is a policy that denies an action with any other key than one.
const denied = `{"Statement":[{"Effect":"Deny","Principal":{"AWS":"*"},"Action":"ACTION","Resource":["arn:aws:s3:::data","arn:aws:s3:::data/*"],"Condition":{"StringNotLike":{"s3:x-amz-server-side-encryption-aws-kms-key-id":["arn:one"]}}}]}`

func queue(event types.Event) func(*settings) {
	return func(f *settings) {
		f.notification.QueueConfigurations = []types.QueueConfiguration{{QueueArn: aws.String("arn:q"), Events: []types.Event{event}}}
	}
}

// surprise gives the data bucket everything that a preflight warns of.
func (w *world) surprise() {
	ctx := w.t.Context()
	b := aws.String(bucket)
	w.versioning(types.BucketVersioningStatusEnabled)
	_, err := w.s3.PutBucketReplication(ctx, &s3.PutBucketReplicationInput{Bucket: b, ReplicationConfiguration: &types.ReplicationConfiguration{
		Role: aws.String("arn:aws:iam::" + account + ":role/r"),
		Rules: []types.ReplicationRule{{Status: types.ReplicationRuleStatusEnabled, Destination: &types.Destination{
			Bucket: aws.String("arn:aws:s3:::replica"), EncryptionConfiguration: &types.EncryptionConfiguration{ReplicaKmsKeyID: &w.a},
		}}},
	}})
	w.must(err)
	_, err = w.s3.PutBucketNotificationConfiguration(ctx, &s3.PutBucketNotificationConfigurationInput{Bucket: b, NotificationConfiguration: &types.NotificationConfiguration{
		EventBridgeConfiguration: &types.EventBridgeConfiguration{},
	}})
	w.must(err)
	_, err = w.s3.PutBucketLifecycleConfiguration(ctx, &s3.PutBucketLifecycleConfigurationInput{Bucket: b, LifecycleConfiguration: &types.BucketLifecycleConfiguration{
		Rules: []types.LifecycleRule{{ID: aws.String("old"), Status: types.ExpirationStatusEnabled, Filter: &types.LifecycleRuleFilter{Prefix: aws.String("")}, Expiration: &types.LifecycleExpiration{Days: aws.Int32(30)}}},
	}})
	w.must(err)
	w.defaultKey(w.a)
	_, err = w.s3.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: b, Key: aws.String("unfinished")})
	w.must(err)
}

// defaultKey puts a key into the default encryption of the data bucket.
func (w *world) defaultKey(key string) {
	_, err := w.s3.PutBucketEncryption(w.t.Context(), &s3.PutBucketEncryptionInput{Bucket: aws.String(bucket), ServerSideEncryptionConfiguration: &types.ServerSideEncryptionConfiguration{
		Rules: []types.ServerSideEncryptionRule{{
			ApplyServerSideEncryptionByDefault: &types.ServerSideEncryptionByDefault{SSEAlgorithm: types.ServerSideEncryptionAwsKms, KMSMasterKeyID: &key},
			BucketKeyEnabled:                   aws.Bool(true),
		}},
	}})
	w.must(err)
}

func (w *world) encryption() types.ServerSideEncryptionRule {
	out, err := w.s3.GetBucketEncryption(w.t.Context(), &s3.GetBucketEncryptionInput{Bucket: aws.String(bucket)})
	w.must(err)
	return out.ServerSideEncryptionConfiguration.Rules[0]
}

func TestPreflight(t *testing.T) {
	w := newWorld(t)
	w.put("a", w.a)
	o := RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b}
	look := func(o RunOptions) []string {
		findings, err := w.engine().Preflight(t.Context(), o)
		w.must(err)
		return named(findings)
	}
	if got := look(o); len(got) > 0 {
		t.Errorf("an ordinary bucket: %q", got)
	}
	w.surprise()
	if diff := cmp.Diff([]string{"warn bucket-default", "warn unfinished-uploads", "warn replication"}, look(o)); diff != "" {
		t.Errorf("update: %s", diff)
	}
	o.Method = MethodCopy
	if diff := cmp.Diff([]string{"warn bucket-default", "warn unfinished-uploads", "warn replication", "warn notifications", "warn lifecycle"}, look(o)); diff != "" {
		t.Errorf("copy: %s", diff)
	}
	o.DryRun = true
	before := w.aws.Requests("s3", "PutObject")
	if got := look(o); !slices.Contains(got, "note target-key") || w.aws.Requests("s3", "PutObject") != before {
		t.Errorf("dry run of copies: %q, and it wrote", got)
	}
	// Nothing is left in the state bucket, and nothing was changed in the other.
	left, err := w.s3.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: aws.String(stateBucket)})
	if w.must(err); len(left.Versions) > 0 {
		t.Errorf("left in the state bucket: %d", len(left.Versions))
	}
	if got := aws.ToString(w.encryption().ApplyServerSideEncryptionByDefault.KMSMasterKeyID); got != w.a {
		t.Errorf("default key %s", got)
	}
	o.DryRun, o.Bucket = false, stateBucket
	if got := look(o); !slices.Equal(got, []string{"stop method"}) {
		t.Errorf("the state bucket: %q", got)
	}
}

// TestPreflightWithoutPermissions: what may not be read is said, and stops only
// where the move itself needs it.
func TestPreflightWithoutPermissions(t *testing.T) {
	w := newWorld(t)
	w.versioning(types.BucketVersioningStatusEnabled)
	w.put("a", w.a)
	e := w.engine()
	o := RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b}
	if _, err := e.Preflight(t.Context(), o); err != nil { // the probe is remembered
		t.Fatal(err)
	}
	for action, want := range map[string]string{
		"s3:GetBucketPolicy":                  "warn unread",
		"s3:GetReplicationConfiguration":      "warn unread",
		"s3:GetBucketNotification":            "warn unread",
		"s3:GetLifecycleConfiguration":        "warn unread",
		"s3:GetBucketObjectLockConfiguration": "warn unread",
		"s3:ListBucketMultipartUploads":       "warn unread",
		"s3:GetEncryptionConfiguration":       "warn unread",
		"s3:GetBucketVersioning":              "stop unread",
		"s3:ListBucketVersions":               "stop unread",
		"s3:GetObjectVersion":                 "stop unread",
		"s3:PutObject":                        "stop target-key",
		"kms:GenerateDataKey":                 "stop target-key",
	} {
		w.aws.SetIdentityPolicy("worker", func(asked, _ string) bool { return asked != action })
		findings, err := e.Preflight(t.Context(), o)
		w.must(err)
		if got := named(findings); !slices.Equal(got, []string{want}) || !strings.Contains(findings[0].What+findings[0].Fix, strings.TrimPrefix(action, "s3:")) {
			t.Errorf("without %s: %+v, want %s", action, findings, want)
		}
	}
}

// TestPreflightOfUnknownDefault: a default encryption that names an alias that may not be
// looked up may name the old key; one that names a dead alias does not.
func TestPreflightOfUnknownDefault(t *testing.T) {
	w := newWorld(t)
	w.put("a", w.a)
	e := w.engine(func(o *Options) {
		o.Resolver = inventory.New(kms.NewFromConfig(inprocess.Config(w.aws, "us-east-1", "worker")), w.s3, account, "us-east-1")
	})
	o := RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b}
	w.defaultKey("alias/dead")
	findings, err := e.Preflight(t.Context(), o)
	w.must(err)
	if len(findings) > 0 {
		t.Errorf("an alias that does not exist: %+v", findings)
	}
	_, err = w.kms.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/dead"), TargetKeyId: &w.a})
	w.must(err)
	w.aws.SetIdentityPolicy("worker", func(asked, resource string) bool { return asked != "kms:DescribeKey" || resource != w.a })
	findings, err = e.Preflight(t.Context(), o)
	w.must(err)
	if !slices.ContainsFunc(findings, func(f Finding) bool { return f.Name == findingUnread && strings.Contains(f.What, "alias/dead") }) {
		t.Errorf("an alias that may not be looked up: %+v", findings)
	}
}

// TestJobWarns: what the preflight warns of is told before the first write, once,
// and is in the report; with the setting, the default encryption moves first.
func TestJobWarns(t *testing.T) {
	for _, fix := range []bool{false, true} {
		t.Run(fmt.Sprintf("fix=%t", fix), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				for i := range 120 {
					w.put(fmt.Sprintf("k%03d", i), w.a)
				}
				w.surprise()
				rule := w.encryption()
				options := func(o *Options) {
					o.FixBucketDefault = fix
					o.Ties = func(_ context.Context, key string) []string { return []string{"ties of " + key} }
				}
				e := w.engine(options)
				ids, err := e.Start(t.Context(), w.move(time.Now(), w.b, w.a))
				w.must(err)
				(&fleet{world: w, engines: []*Engine{e, w.engine(options)}}).work()
				if len(w.told.warned) != 1 || len(w.told.completed) != 1 || len(w.told.warned[0].Preflight) != 3 || w.told.warned[0].Moved != 0 {
					t.Fatalf("told: %+v", w.told.warned)
				}
				s := w.told.completed[0]
				if s.Job != ids[0] || s.Moved != 120 || len(s.Preflight) != 3 || !slices.Contains(s.Notes, "ties of "+w.a) {
					t.Errorf("summary: %+v", s)
				}
				want, name := w.a, "warn bucket-default"
				if fix {
					want, name = w.b, "note bucket-default-moved"
				}
				if !slices.Contains(named(s.Preflight), name) {
					t.Errorf("findings: %q, want %s", named(s.Preflight), name)
				}
				now := w.encryption()
				if got := aws.ToString(now.ApplyServerSideEncryptionByDefault.KMSMasterKeyID); got != want {
					t.Errorf("default key %s, want %s", got, want)
				}
				if !aws.ToBool(now.BucketKeyEnabled) || blocked(&now) != blocked(&rule) {
					t.Errorf("the rest of the default encryption changed: %+v", now)
				}
			})
		})
	}
}

// TestJobStopsAtDeadKeys: a key that cannot be used stops the job before its first
// write, with how to restore it.
func TestJobStopsAtDeadKeys(t *testing.T) {
	for name, tt := range map[string]struct {
		kill func(w *world)
		fix  string
	}{
		"the old key is disabled": {func(w *world) { w.disable(w.a) }, "aws kms enable-key --key-id "},
		"the new key is disabled": {func(w *world) { w.disable(w.b) }, "aws kms enable-key --key-id "},
		"the old key is dying": {func(w *world) {
			_, err := w.kms.ScheduleKeyDeletion(w.t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &w.a, PendingWindowInDays: aws.Int32(7)})
			w.must(err)
		}, "aws kms cancel-key-deletion --key-id "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.put("k", w.a)
				tt.kill(w)
				e := w.engine()
				_, err := e.Start(t.Context(), w.move(time.Now(), w.b, w.a))
				w.must(err)
				(&fleet{world: w, engines: []*Engine{e}}).work()
				if len(w.told.stalled) != 1 || w.told.stalled[0].State != StateStopped || !strings.Contains(w.told.stalled[0].Cause, tt.fix) {
					t.Errorf("told: %+v", w.told.stalled)
				}
				h, err := w.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String("k")})
				if w.must(err); aws.ToString(h.SSEKMSKeyId) != w.a {
					t.Errorf("the object is under %s", aws.ToString(h.SSEKMSKeyId))
				}
			})
		})
	}
}

// TestDefaultThatIsNotOurs: an alias in the default encryption, and that of a
// bucket of which a part moves, stay as they are.
func TestDefaultThatIsNotOurs(t *testing.T) {
	w := newWorld(t)
	_, err := w.kms.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/other"), TargetKeyId: &w.a})
	w.must(err)
	for name, o := range map[string]RunOptions{
		"alias/other": {Bucket: bucket, From: []string{w.a}, To: w.b},
		w.a:           {Bucket: bucket, Prefix: "part/", From: []string{w.a}, To: w.b},
	} {
		w.defaultKey(name)
		findings, err := w.engine(func(o *Options) { o.FixBucketDefault = true }).Begin(t.Context(), o)
		w.must(err)
		if got := named(findings); !slices.Equal(got, []string{"warn bucket-default"}) {
			t.Errorf("%s: %q", name, got)
		}
		if got := aws.ToString(w.encryption().ApplyServerSideEncryptionByDefault.KMSMasterKeyID); got != name {
			t.Errorf("default key %s, want %s", got, name)
		}
	}
}

func TestPlan(t *testing.T) {
	w := newWorld(t)
	w.versioning(types.BucketVersioningStatusEnabled)
	for i := range 40 {
		w.put(fmt.Sprintf("std%02d", i), w.a)
	}
	for i := range 10 {
		w.put(fmt.Sprintf("ia%02d", i), w.a, func(in *s3.PutObjectInput) { in.StorageClass = types.StorageClassStandardIa })
	}
	w.put("std00", w.a) // std00 has a noncurrent version now
	w.put("other", w.other)
	w.put("done", w.b)
	_, err := w.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: aws.String("std01")})
	w.must(err)
	before := w.snapshot()
	// A copy cannot move std00's first version, nor std01's under its delete marker.
	for method, want := range map[Method]struct{ move, refuse int64 }{MethodUpdate: {51, 0}, MethodCopy: {49, 2}} {
		p, err := w.engine(func(o *Options) { o.Rate = 10 }).Plan(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Method: method}, 0, nil)
		w.must(err)
		if p.Method != method || p.Listed != 53 || p.Read != 53 || p.InScope.Versions != 51 || p.Seconds != float64(p.Move.Versions)/10 {
			t.Errorf("plan: %+v", p)
		}
		if p.Move.Versions != want.move || p.Refuse.Versions != want.refuse {
			t.Errorf("%s: %d to move, %d refused; want %+v", method, p.Move.Versions, p.Refuse.Versions, want)
		}
		if p.Requests.Head != 106 || p.Requests.Write != want.move || p.CostUSD <= 0 {
			t.Errorf("%s: %+v, $%f", method, p.Requests, p.CostUSD)
		}
	}
	if diff := cmp.Diff(before, w.snapshot()); diff != "" {
		t.Errorf("a plan changed: %s", diff)
	}
	sampled, err := w.engine().Plan(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b}, 20, nil)
	w.must(err)
	var sum int64
	for _, g := range sampled.Groups {
		sum += g.Versions
	}
	if sampled.Listed != 53 || sampled.Read != 20 || sum < 50 || sum > 56 {
		t.Errorf("sampled: %d listed, %d read, groups of %d", sampled.Listed, sampled.Read, sum)
	}
	body, err := json.Marshal(Plan{Schema: PlanSchema, Buckets: []BucketPlan{sampled}})
	w.must(err)
	for _, member := range []string{`"schema":"cmkeeper.plan.v1"`, `"bucket":"data"`, `"prefix":""`, `"from":["`, `"to":"`, `"versions":"all"`, `"method":"update"`} {
		if !strings.Contains(string(body), member) {
			t.Errorf("no %s in %s", member, body)
		}
	}
}

// TestSurveyOfABusyBucket: throttling and single failures end no survey, an ill
// service does.
func TestSurveyOfABusyBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 300 {
			w.put(fmt.Sprintf("k%03d", i), w.a)
		}
		look := func() (Survey, error) {
			return w.engine().Survey(t.Context(), Scope{Bucket: bucket}, w.a, EnvelopesOff, nil)
		}
		w.aws.SetFaults(localaws.Fault{Service: "s3", Operations: []string{"HeadObject"}, Effect: localaws.Throttle, Rate: 20})
		s, err := look()
		w.must(err)
		if s.Listed != 300 || s.Read != 300 || len(s.Groups) != 1 || s.Groups[0].Key != w.a || s.Groups[0].Versions != 300 || s.Groups[0].Reason != ReasonOnTarget {
			t.Errorf("throttled: %+v", s)
		}
		w.aws.SetFaults(localaws.Fault{Service: "s3", Operations: []string{"HeadObject"}, Effect: localaws.FailBefore, Count: 20})
		s, err = look()
		w.must(err)
		if s.Read != 300 {
			t.Errorf("with failures: %+v", s)
		}
		w.aws.SetFaults(localaws.Fault{Service: "s3", Operations: []string{"HeadObject"}, Effect: localaws.FailBefore})
		if _, err = look(); err == nil || !strings.Contains(err.Error(), "could not be read") {
			t.Errorf("an ill service: %v", err)
		}
	})
}

func TestEstimate(t *testing.T) {
	p := BucketPlan{From: []string{"old"}, Survey: Survey{Listed: 3_000_000, Groups: []Group{
		{Key: "old", StorageClass: "STANDARD", Action: "update", Versions: 1_000_000, Bytes: 5},
		{Key: "old", StorageClass: "GLACIER", Action: "update", Versions: 1_000_000, Bytes: 7},
		{Key: "new", StorageClass: "STANDARD", Action: "skip", Versions: 1_000_000},
	}}}
	p.estimate(updateMethod{}, 512<<20)
	if diff := cmp.Diff(Requests{List: 9000, Head: 6_000_000, Write: 2_000_000, KMS: 4_000_000}, p.Requests); diff != "" {
		t.Error(diff)
	}
	// 9,000 LIST are $0.045, 6 million HEAD $2.40, 2 million updates $10, 4 million calls of KMS $12.
	if got := fmt.Sprintf("%.3f %.2f", p.CostUSD, p.BatchUSD); got != "24.445 2.25" { // a job and 2 million objects
		t.Errorf("cost %s", got)
	}
	p = BucketPlan{From: []string{"old"}, Survey: Survey{Listed: 1, Groups: []Group{
		{Key: "old", StorageClass: "STANDARD_IA", Action: "copy-parts", Versions: 1, Bytes: 10 << 30},
	}}}
	p.estimate(copyMethod{}, 512<<20)
	if p.Requests.Write != 23 || fmt.Sprintf("%.2f", p.CostUSD) != "0.10" || p.BatchUSD != 0 { // 10 GiB read from Standard-IA
		t.Errorf("%+v, $%f", p.Requests, p.CostUSD)
	}
	p = BucketPlan{From: []string{"old"}, Envelopes: EnvelopesContent, Survey: Survey{Listed: 3000, Groups: []Group{
		{Key: "other", StorageClass: "STANDARD", Action: "re-wrap", Envelope: "s3-client-v3", Sealed: true, Versions: 1000, Bytes: 6000 << 30},
		{Key: "other", StorageClass: "STANDARD", Action: "refuse", Envelope: "sops", Sealed: true, Versions: 1000, Bytes: 5},
		{Key: "other", StorageClass: "STANDARD", Action: "skip", Envelope: "sops", Versions: 1000, Bytes: 5},
	}}}
	p.estimate(updateMethod{}, 512<<20) // what is re-wrapped is copied, here in 12 parts, with a beginning and an end
	want := Requests{List: 9, Head: 6000, Get: 6000, Write: 15_000, KMS: 6000 + 30_000 + 6000}
	if diff := cmp.Diff(want, p.Requests); diff != "" || p.InScope.Versions != 2000 || p.Move.Versions != 1000 || p.Refuse.Versions != 1000 {
		t.Errorf("%s%+v", diff, p)
	}
}
