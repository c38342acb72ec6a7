package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	eventbridgetypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/deploy"
	"github.com/cmkeeper/cmkeeper/internal/demo"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	localsqs "github.com/cmkeeper/cmkeeper/internal/localaws/sqs"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// roles are the template's roles whose policies are proved, with what has them here.
var roles = map[string]string{"EventsRole": "AKIAEVENTS", "JobsRole": "AKIAJOBS", "BatchRole": "AKIABATCH", "AccessRole": "AKIAACCESS"}

// asked are the calls that a role has made.
type asked struct {
	mu sync.Mutex
	// calls are actions and resources by role, refused those that its policies do not allow.
	calls   map[string]map[call]bool
	refused map[string]bool
}

type call struct{ action, resource string }

func (a *asked) note(role string, c call, allowed bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls == nil {
		a.calls, a.refused = map[string]map[call]bool{}, map[string]bool{}
	}
	if a.calls[role] == nil {
		a.calls[role] = map[call]bool{}
	}
	a.calls[role][c] = true
	if !allowed {
		a.refused[role+" "+c.action+" "+c.resource] = true
	}
	return allowed
}

// deployed is a stack of the template in a sandbox, in the time of a test's bubble.
type deployed struct {
	*testing.T
	box   *sandbox.Sandbox
	stack *deploy.Stack
	asked asked
	log   logBuffer
	kms   *kms.Client
	s3    *s3.Client
	stops []func() error
}

// inStack deploys the template with these parameters into a sandbox of its own.
func inStack(t *testing.T, parameters map[string]string, test func(d *deployed)) {
	t.Helper()
	template := must(deploy.Parse(deploy.Source))(t)
	synctest.Test(t, func(t *testing.T) {
		d := &deployed{T: t}
		d.box = must(sandbox.InProcess(t.Context()))(t)
		defer d.box.Close()
		defer func() {
			d.stop()
			if t.Failed() && testing.Verbose() {
				t.Log(d.log.String())
			}
		}()
		cfg := d.box.Config(operator)
		d.kms, d.s3 = kms.NewFromConfig(cfg), s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
		canary := must(d.kms.CreateKey(t.Context(), &kms.CreateKeyInput{Tags: []kmstypes.Tag{{TagKey: aws.String("cmkeeper:canary"), TagValue: aws.String("true")}}}))(t)
		all := map[string]string{"Image": "cmkeeper", "VpcId": "vpc-0123456789abcdef0", "Subnets": "subnet-0123456789abcdef0"}
		maps.Copy(all, parameters)
		d.stack = must(template.Deploy(deploy.Place{
			Account: sandbox.Account, Region: sandbox.Region, Stack: "cmkeeper", Parameters: all,
			QueueURL: strings.TrimSuffix(d.box.EventsQueue, "/"+sandbox.Account+"/cmkeeper-events"),
			IDs:      map[string]string{"StateBucket": sandbox.StateBucket, "CanaryKey": *canary.KeyMetadata.KeyId},
		}))(t)
		d.create()
		for role, accessKey := range roles {
			d.hold(role, accessKey)
		}
		d.trust("AccessRole")
		time.Sleep(time.Minute)
		test(d)
	})
}

// stop stops the workers.
func (d *deployed) stop() {
	d.Helper()
	for _, stop := range d.stops {
		if err := stop(); err != nil {
			d.Error(err)
		}
	}
}

// expectNothingRefused fails the test for each call that a role does not allow.
func (d *deployed) expectNothingRefused() {
	d.Helper()
	d.asked.mu.Lock()
	defer d.asked.mu.Unlock()
	for _, refused := range slices.Sorted(maps.Keys(d.asked.refused)) {
		d.Errorf("refused: %s", refused)
	}
}

// create makes the sandbox's queues, topic and rules those of the stack.
func (d *deployed) create() {
	d.Helper()
	cfg := d.box.Config("sandbox")
	queues, topics, bus := sqs.NewFromConfig(cfg), sns.NewFromConfig(cfg), eventbridge.NewFromConfig(cfg)
	must(queues.CreateQueue(d.Context(), &sqs.CreateQueueInput{QueueName: aws.String("cmkeeper-rules-dlq")}))(d.T)
	document := func(id string) string {
		return string(must(json.Marshal(d.stack.Resources[id].Properties["PolicyDocument"]))(d.T))
	}
	for _, id := range d.stack.OfType("AWS::SQS::QueuePolicy") {
		url := d.stack.Resources[id].Properties["Queues"].([]any)[0].(string)
		must(queues.SetQueueAttributes(d.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &url, Attributes: map[string]string{"Policy": document(id), "SqsManagedSseEnabled": "true"}}))(d.T)
	}
	must(topics.SetTopicAttributes(d.Context(), &sns.SetTopicAttributesInput{TopicArn: &d.box.Topic, AttributeName: aws.String("Policy"), AttributeValue: aws.String(document("AlertTopicPolicy"))}))(d.T)
	for _, id := range d.stack.OfType("AWS::Events::Rule") {
		p := d.stack.Resources[id].Properties
		in := &eventbridge.PutRuleInput{Name: aws.String(p["Name"].(string))}
		if pattern := p["EventPattern"]; pattern != nil {
			in.EventPattern = aws.String(string(must(json.Marshal(pattern))(d.T)))
		} else {
			in.ScheduleExpression = aws.String(p["ScheduleExpression"].(string))
		}
		if state, ok := p["State"].(string); ok {
			in.State = eventbridgetypes.RuleState(state)
		}
		must(bus.PutRule(d.Context(), in))(d.T)
		target := p["Targets"].([]any)[0].(map[string]any)
		// The sandbox's target, of another id, is one of the same queue.
		must(bus.PutTargets(d.Context(), &eventbridge.PutTargetsInput{Rule: in.Name, Targets: []eventbridgetypes.Target{{
			Id: aws.String("cmkeeper-events"), Arn: aws.String(target["Arn"].(string)),
			DeadLetterConfig: &eventbridgetypes.DeadLetterConfig{Arn: aws.String(target["DeadLetterConfig"].(map[string]any)["Arn"].(string))},
		}}}))(d.T)
	}
}

// hold holds an access key to a role's policies, and notes what is asked of them.
func (d *deployed) hold(role, accessKey string) {
	d.Helper()
	if _, ok := d.stack.Resources[role]; !ok {
		return
	}
	_, arn := d.stack.Identity(role)
	d.box.AWS.AddIdentity(accessKey, wire.Caller{
		Type: "AssumedRole", AccountID: sandbox.Account, PrincipalID: "AROA" + strings.ToUpper(role) + ":task",
		ARN: "arn:aws:sts::" + sandbox.Account + ":assumed-role/" + path.Base(arn) + "/task",
	})
	policy := must(iam.ParseIdentity(must(d.stack.RolePolicy(role))(d.T)))(d.T)
	d.box.AWS.SetIdentityPolicy(accessKey, func(action, resource string) bool {
		return d.asked.note(role, call{action, resource}, policy.Evaluate(iam.Request{Action: action, Resource: resource}) == iam.Allow)
	})
}

// trust has IAM know a role, so that it can be assumed.
func (d *deployed) trust(role string) {
	d.Helper()
	resource, ok := d.stack.Resources[role]
	if !ok {
		return
	}
	_, arn := d.stack.Identity(role)
	must(d.box.AWS.IAM().SetRole(iam.Role{
		Name: path.Base(arn), Trust: string(must(json.Marshal(resource.Properties["AssumeRolePolicyDocument"]))(d.T)),
		Inline: map[string]string{"review": string(must(d.stack.RolePolicy(role))(d.T))},
	}))(d.T)
}

// start starts a worker with the variables of a task definition and further ones, and
// returns when it is ready.
func (d *deployed) start(task, role string, settings ...string) (stop func() error) {
	d.Helper()
	environment := d.stack.Environment(task)
	environment["CMKEEPER_S3_PATH_STYLE"], environment["CMKEEPER_REENCRYPT_RATE"] = "true", "0"
	for pair := range slices.Chunk(settings, 2) {
		environment[envPrefix+pair[0]] = pair[1]
	}
	config := must(LoadConfig(d.Context(), environment))(d.T)
	f := fleetMember{config: config, aws: d.box.Config(roles[role]), log: config.logger(&d.log)}
	w := must(f.wire(d.Context()))(d.T)
	ctx, cancel := context.WithCancel(d.Context())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- f.work(ctx, w, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		d.Fatalf("a worker ended: %v", err)
	}
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	d.stops = append(d.stops, stop)
	return stop
}

// key creates a key and, unless it is "", an alias for it, and returns its ARN.
func (d *deployed) key(alias string) string {
	d.Helper()
	out := must(d.kms.CreateKey(d.Context(), &kms.CreateKeyInput{}))(d.T)
	if alias != "" {
		must(d.kms.CreateAlias(d.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: out.KeyMetadata.KeyId}))(d.T)
	}
	return *out.KeyMetadata.Arn
}

// bucket creates a bucket under the key or alias, with objects that have all that can be lost.
func (d *deployed) bucket(name, key string, objects int, configure func(*s3.CreateBucketInput)) {
	d.Helper()
	in := &s3.CreateBucketInput{Bucket: &name}
	configure(in)
	must(d.s3.CreateBucket(d.Context(), in))(d.T)
	must(d.s3.PutBucketEncryption(d.Context(), &s3.PutBucketEncryptionInput{Bucket: &name, ServerSideEncryptionConfiguration: &s3types.ServerSideEncryptionConfiguration{
		Rules: []s3types.ServerSideEncryptionRule{{ApplyServerSideEncryptionByDefault: &s3types.ServerSideEncryptionByDefault{SSEAlgorithm: s3types.ServerSideEncryptionAwsKms, KMSMasterKeyID: &key}}},
	}}))(d.T)
	g, ctx := errgroup.WithContext(d.Context())
	for i := range objects {
		g.Go(func() error {
			_, err := d.s3.PutObject(ctx, &s3.PutObjectInput{
				Bucket: &name, Key: aws.String(fmt.Sprintf("object-%02d", i)), Body: strings.NewReader("body"), Tagging: aws.String("class=internal"), Metadata: map[string]string{"row": "1"},
			})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		d.Fatal(err)
	}
}

// play is a day of a fleet: somebody breaks what there is to break, and an alias moves.
func (d *deployed) play(settings ...string) {
	d.Helper()
	ctx := d.Context()
	rotating, policed, doomed, disabled, opened := d.key("alias/rotating"), d.key("alias/policed"), d.key("alias/doomed"), d.key("alias/disabled"), d.key("alias/opened")
	app, next, last := d.key(appAlias), d.key(""), d.key("")
	must(d.kms.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &rotating, RotationPeriodInDays: aws.Int32(180)}))(d.T)
	d.bucket("app-plain", appAlias, 5, func(*s3.CreateBucketInput) {})
	d.bucket("app-fixed", app, 1, func(*s3.CreateBucketInput) {}) // its default names the key
	d.bucket("app-versions", appAlias, 5, func(in *s3.CreateBucketInput) { in.ObjectLockEnabledForBucket = aws.Bool(true) })
	d.bucket("app-shared", appAlias, 0, func(in *s3.CreateBucketInput) { in.ObjectOwnership = s3types.ObjectOwnershipObjectWriter })
	must(d.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("app-shared"), Key: aws.String("public"), Body: strings.NewReader("body"), ACL: s3types.ObjectCannedACLPublicRead}))(d.T)
	d.bucket("app-acls", appAlias, 1, func(in *s3.CreateBucketInput) { in.ObjectOwnership = s3types.ObjectOwnershipObjectWriter })
	must(d.s3.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{Bucket: aws.String("app-acls"), VersioningConfiguration: &s3types.VersioningConfiguration{Status: s3types.BucketVersioningStatusEnabled}}))(d.T)
	for _, bucket := range sealedIn {
		d.seal(bucket, app)
	}

	if _, ok := d.stack.Resources["JobsTask"]; ok {
		d.start("JobsTask", "JobsRole", settings...)
	}
	d.start("EventsTask", "EventsRole", settings...)
	time.Sleep(65 * time.Minute) // two sweeps, canaries among them
	d.sees()
	d.box.AWS.S3Control().SetPace(time.Minute)
	// For a while nothing can be published, and no bucket listed: messages are received again.
	d.box.AWS.SetFaults(
		localaws.Fault{Service: "sns", Operations: []string{"Publish"}, Effect: localaws.FailBefore, Count: 8},
		localaws.Fault{Service: "s3", Operations: []string{"ListObjectsV2", "ListObjectVersions"}, Caller: roles["JobsRole"], Effect: localaws.FailBefore, Count: 8},
	)

	must(d.kms.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: &rotating}))(d.T)
	must(d.kms.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &policed, Policy: aws.String(openPolicy)}))(d.T)
	must(d.kms.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &doomed, PendingWindowInDays: aws.Int32(7)}))(d.T)
	must(d.kms.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &disabled}))(d.T)
	must(d.kms.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &opened, GranteePrincipal: aws.String("arn:aws:iam::999988887777:root"), Operations: []kmstypes.GrantOperation{kmstypes.GrantOperationDecrypt, kmstypes.GrantOperationCreateGrant}}))(d.T)
	must(d.s3.PutBucketTagging(ctx, &s3.PutBucketTaggingInput{Bucket: aws.String("app-plain"), Tagging: &s3types.Tagging{TagSet: []s3types.Tag{{Key: aws.String("cmkeeper:alias"), Value: aws.String(appAlias)}}}}))(d.T)
	must(d.s3.PutBucketPolicy(ctx, &s3.PutBucketPolicyInput{Bucket: aws.String("app-plain"), Policy: aws.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::app-plain/*","Condition":{"Bool":{"aws:SecureTransport":"false"}}}]}`)}))(d.T)
	if err := d.box.AWS.SQS().Deliver(localsqs.Delivery{
		QueueARN: "arn:aws:sqs" + scope + "cmkeeper-events", Body: "no event", Service: "events.amazonaws.com", SourceARN: "arn:aws:events" + scope + "rule/cmkeeper-kms",
	}); err != nil {
		d.Fatal(err)
	}
	must(sqs.NewFromConfig(d.box.Config(operator)).SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &d.box.JobsQueue, MessageBody: aws.String("no work")}))(d.T)
	time.Sleep(10 * time.Minute)
	must(d.kms.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: aws.String(appAlias), TargetKeyId: &next}))(d.T)
	time.Sleep(20 * time.Second) // and on, in the middle of what S3 does
	must(d.kms.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: aws.String(appAlias), TargetKeyId: &last}))(d.T)
	time.Sleep(2 * time.Hour)
	environment := d.stack.Environment("EventsTask")
	moves, in := environment[envPrefix+"REENCRYPT_MODE"] == "enforce", environment[envPrefix+"REENCRYPT_ENVELOPES"]
	for _, bucket := range sealedIn {
		for name, under := range d.sealed(bucket) {
			want := app
			if moves && (in == "content" || in == "metadata" && name != "sops.yaml") {
				want = last
			}
			if under != want {
				d.Errorf("envelopes %s: the data key of %s in %s is under %s, want %s", in, name, bucket, under, want)
			}
		}
	}
}

// sealedIn are the buckets with objects that an application has encrypted.
var sealedIn = []string{"app-plain", "app-acls"}

// sealContext is the encryption context of their data keys.
var sealContext = map[string]string{"aws:x-amz-cek-alg": "AES/GCM/NoPadding", "tenant": "a"}

// wrappedKey is a data key under a key of KMS.
func wrappedKey(t *testing.T, client *kms.Client, key string) string {
	t.Helper()
	out := must(client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, KeySpec: kmstypes.DataKeySpecAes256, EncryptionContext: sealContext}))(t)
	return base64.StdEncoding.EncodeToString(out.CiphertextBlob)
}

// sealedMetadata is what version 2 of the S3 Encryption Client stores with an object.
func sealedMetadata(t *testing.T, client *kms.Client, key string) map[string]string {
	t.Helper()
	return map[string]string{
		"x-amz-key-v2": wrappedKey(t, client, key), "x-amz-iv": "AAAAAAAAAAAAAAAA", "x-amz-wrap-alg": "kms+context", "x-amz-cek-alg": "AES/GCM/NoPadding", "x-amz-tag-len": "128",
		"x-amz-matdesc": string(must(json.Marshal(sealContext))(t)),
	}
}

// seal stores objects whose data keys are under a key: in their metadata, in an instruction
// file, and in a file of SOPS.
func (d *deployed) seal(bucket, key string) {
	d.Helper()
	put := func(name, body string, metadata map[string]string) {
		must(d.s3.PutObject(d.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &name, Body: strings.NewReader(body), Metadata: metadata, Tagging: aws.String("class=internal"), ACL: map[bool]s3types.ObjectCannedACL{true: s3types.ObjectCannedACLPublicRead}[bucket == "app-acls"]}))(d.T)
	}
	put("metadata", "sealed", sealedMetadata(d.T, d.kms, key))
	put("file", "sealed", nil)
	put("file.instruction", string(must(json.Marshal(sealedMetadata(d.T, d.kms, key)))(d.T)), map[string]string{"x-amz-crypto-instr-file": ""})
	put("sops.yaml", fmt.Sprintf("a: ENC[AES256_GCM,data:QQ==,iv:QQ==,tag:QQ==,type:str]\nsops:\n  kms:\n  - arn: %s\n    context:\n      aws:x-amz-cek-alg: AES/GCM/NoPadding\n      tenant: a\n    enc: %s\n  lastmodified: x\n  version: 3.0.0\n", key, wrappedKey(d.T, d.kms, key)), nil)
}

// sealed returns the keys that the data keys of seal are under, by object.
func (d *deployed) sealed(bucket string) map[string]string {
	d.Helper()
	under := map[string]string{}
	for name, find := range map[string]func(map[string]string, string) string{
		"metadata": func(metadata map[string]string, _ string) string { return metadata["x-amz-key-v2"] },
		"file.instruction": func(_ map[string]string, body string) string {
			members := map[string]string{}
			if err := json.Unmarshal([]byte(body), &members); err != nil {
				d.Fatal(err)
			}
			return members["x-amz-key-v2"]
		},
		"sops.yaml": func(_ map[string]string, body string) string {
			_, enc, _ := strings.Cut(body, "enc: ")
			enc, _, _ = strings.Cut(enc, "\n")
			return enc
		},
	} {
		out := must(d.s3.GetObject(d.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &name}))(d.T)
		body := must(io.ReadAll(out.Body))(d.T)
		blob := must(base64.StdEncoding.DecodeString(find(out.Metadata, string(body))))(d.T)
		under[name] = *must(d.kms.Decrypt(d.Context(), &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: sealContext}))(d.T).KeyId
	}
	return under
}

// scope is in the middle of ARNs of the sandbox.
const scope = ":" + sandbox.Region + ":" + sandbox.Account + ":"

// sees fails the test unless each sweep until now has found that the guard sees: what the
// template makes is what cmkeeper asks for, and the role may look at all of it.
func (d *deployed) sees() {
	d.Helper()
	checked := d.log.lines(`"msg":"guard checked"`)
	if len(checked) < 2 {
		d.Errorf("%d sweeps have checked the guard", len(checked))
	}
	for _, line := range checked {
		if !strings.Contains(line, `"problems":null,"not_looked_at":null`) {
			d.Errorf("the guard does not see: %s", line)
		}
	}
}

// openPolicy lets everybody decrypt.
const openPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + sandbox.Account + `:root"},"Action":"kms:*","Resource":"*"},{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}`

// unproved are the actions that no run needs, and why the roles have them.
var unproved = map[string]string{
	"ecs:UpdateTaskProtection": "asked by the ECS agent, which localaws does not have",
	"BatchRole":                "AWS documents it for S3's own work; localaws asks for a part of it",
	"kms:Encrypt":              "AWS documents it for UpdateObjectEncryption; localaws asks for what S3 is known to call",
	"s3:AbortMultipartUpload":  "objects above 5 GiB, which localaws cannot hold, when their copy fails",
	"s3:GetObjectAnnotation":   "localaws has no annotations",
	"s3:ListObjectAnnotations": "localaws has no annotations",
	"s3:PutObjectAnnotation":   "localaws has no annotations",
	"sqs:GetQueueUrl":          "a dead-letter queue whose attributes cannot be read at the first attempt",
}

// factors are what the runs differ in.
var factors = []struct {
	name   string
	values []string
}{
	{"RotationMode", []string{"off", "observe", "enforce"}},
	{"PolicyMode", []string{"off", "observe", "enforce"}},
	{"DeletionMode", []string{"off", "observe", "enforce"}},
	{"ContainMode", []string{"off", "observe", "enforce"}},
	{"ReencryptMode", []string{"off", "observe", "enforce"}},
	{"ReencryptEngine", []string{"fleet", "copy", "batch"}}, // copy is the fleet with that method
	{"FixBucketDefault", []string{"false", "true"}},
	{"FailedUse", []string{"false", "true"}},
	{"ReportSchedule", []string{"off", "weekly"}},
	{"AccessReview", []string{"off", "daily"}},
	{"ReencryptEnvelopes", []string{"off", "metadata", "content"}}, // files are written anew, too
}

// combinations are runs with all modes off, all observing, and all enforcing by each engine
// and with each way to look for data keys.
// Pairwise, there are further ones until any two values of two factors have met.
func combinations(pairwise bool) (all [][]string) {
	type pair struct{ f, v, g, w int }
	left := map[pair]bool{}
	for f := range factors {
		for g := f + 1; g < len(factors); g++ {
			for v := range factors[f].values {
				for w := range factors[g].values {
					left[pair{f, v, g, w}] = true
				}
			}
		}
	}
	// met counts, or takes away, the pairs that a run has of those that are left.
	met := func(run []int, take bool) (n int) {
		for f := range run {
			for g := f + 1; g < len(run); g++ {
				if p := (pair{f, run[f], g, run[g]}); run[f] >= 0 && run[g] >= 0 && left[p] {
					n++
					if take {
						delete(left, p)
					}
				}
			}
		}
		return n
	}
	add := func(run []int) {
		met(run, true)
		values := make([]string, len(run))
		for f, v := range run {
			values[f] = factors[f].values[v]
		}
		all = append(all, values)
	}
	for _, run := range [][]int{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 2}, {2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 2}, {2, 2, 2, 2, 2, 1, 0, 0, 0, 0, 2}, {2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 2}, {2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 1}, {2, 2, 2, 2, 2, 1, 0, 0, 0, 0, 0}} {
		add(run)
	}
	for pairwise && len(left) > 0 {
		first := slices.MinFunc(slices.Collect(maps.Keys(left)), func(a, b pair) int {
			return slices.Compare([]int{a.f, a.g, a.v, a.w}, []int{b.f, b.g, b.v, b.w})
		})
		run := slices.Repeat([]int{-1}, len(factors))
		run[first.f], run[first.g] = first.v, first.w
		for f := range run {
			if run[f] >= 0 {
				continue
			}
			best, most, n := 0, -1, len(factors[f].values)
			for i := range n {
				run[f] = (i + len(all)) % n // another one first in each run, where all are as good
				if n := met(run, false); n > most {
					best, most = run[f], n
				}
			}
			run[f] = best
		}
		add(run)
	}
	return all
}

// TestLeastPrivilege plays a fleet under the roles of the template, with all modes off, all
// observing, all enforcing, and with CMKEEPER_DEPLOY in pairwise combinations. AWS refuses
// nothing, and each action that a role allows is needed by a run: without it, a call would
// be refused.
func TestLeastPrivilege(t *testing.T) {
	var mu sync.Mutex
	calls := map[string]map[call]bool{}
	runs := combinations(os.Getenv("CMKEEPER_DEPLOY") != "")
	t.Run("runs", func(t *testing.T) {
		for i, values := range runs {
			t.Run(strings.Join(values, " "), func(t *testing.T) {
				t.Parallel()
				parameters := map[string]string{"ReencryptAliases": "alias/app*", "DataBuckets": "arn:aws:s3:::app-*"}
				var settings, says []string
				for f, v := range values {
					says = append(says, factors[f].name+"="+v)
					if v == "copy" {
						v, settings = "fleet", []string{"REENCRYPT_METHOD", "copy"}
					}
					parameters[factors[f].name] = v
					if v == "content" {
						parameters["ReencryptRewriteFiles"] = "true"
					}
				}
				t.Logf("run %d: %s", i+1, strings.Join(says, " "))
				inStack(t, parameters, func(d *deployed) {
					d.play(settings...)
					d.stop() // so that nothing is asked any more
					d.expectNothingRefused()
					mu.Lock()
					defer mu.Unlock()
					for role, made := range d.asked.calls {
						if calls[role] == nil {
							calls[role] = map[call]bool{}
						}
						maps.Copy(calls[role], made)
					}
				})
			})
		}
	})
	if t.Failed() {
		return
	}
	everything := map[string]string{
		"RotationMode": "enforce", "PolicyMode": "enforce", "DeletionMode": "enforce", "ContainMode": "enforce", "ReencryptMode": "enforce",
		"ReencryptEngine": "batch", "FixBucketDefault": "true", "FailedUse": "true", "ReportSchedule": "weekly", "AccessReview": "daily", "DataBuckets": "arn:aws:s3:::app-*",
		"ReencryptEnvelopes": "content", "ReencryptRewriteFiles": "true",
	}
	actions, needless := unneeded(t, stackOf(t, everything), calls)
	for _, one := range needless {
		t.Errorf("no run needs %s", one)
	}
	t.Logf("%d actions of %d roles, %d of them unproved, in %d runs", actions, len(roles), len(unproved), len(runs))
}

// stackOf is a stack of the template with these parameters, as inStack has it but for the canary's key.
func stackOf(t *testing.T, parameters map[string]string) *deploy.Stack {
	t.Helper()
	all := map[string]string{"Image": "cmkeeper", "VpcId": "vpc-0123456789abcdef0", "Subnets": "subnet-0123456789abcdef0"}
	maps.Copy(all, parameters)
	return must(must(deploy.Parse(deploy.Source))(t).Deploy(deploy.Place{
		Account: sandbox.Account, Region: sandbox.Region, Stack: "cmkeeper", QueueURL: "http://localaws.internal", Parameters: all,
		IDs: map[string]string{"StateBucket": sandbox.StateBucket, "CanaryKey": "*"},
	}))(t)
}

// unneeded takes each action out of each statement of the roles in turn, and returns those
// without which all calls would still be allowed. An action that is unproved has to be one.
func unneeded(t *testing.T, s *deploy.Stack, calls map[string]map[call]bool) (actions int, needless []string) {
	t.Helper()
	left := maps.Clone(unproved)
	for role := range roles {
		var document struct {
			Version   string
			Statement []map[string]any
		}
		if err := json.Unmarshal(must(s.RolePolicy(role))(t), &document); err != nil {
			t.Fatal(err)
		}
		for _, statement := range document.Statement {
			was := statement["Action"]
			list, several := was.([]any)
			if !several {
				list = []any{was}
			}
			for i, action := range list {
				actions++
				statement["Action"] = slices.Delete(slices.Clone(list), i, i+1)
				if len(list) == 1 {
					statement["Action"] = "none:None"
				}
				without := must(iam.ParseIdentity(must(json.Marshal(document))(t)))(t)
				needed := false
				for c := range calls[role] {
					needed = needed || without.Evaluate(iam.Request{Action: c.action, Resource: c.resource}) != iam.Allow
				}
				switch name := action.(string); {
				case unproved[role] != "":
				case needed && unproved[name] != "":
					needless = append(needless, name+" in the list of those that are unproved: it is needed")
				case !needed && unproved[name] == "":
					needless = append(needless, fmt.Sprintf("%s of %s on %v", name, role, statement["Resource"]))
				}
				delete(left, action.(string))
				delete(left, role)
			}
			statement["Action"] = was
		}
	}
	for name := range left {
		needless = append(needless, name+" in the list of those that are unproved: there is none")
	}
	slices.Sort(needless)
	return actions, needless
}

// TestMetricFilters: each metric filter of the template matches a line that a worker logs
// when what its alarm is about happens, and none before.
func TestMetricFilters(t *testing.T) {
	t.Parallel()
	inStack(t, map[string]string{"RotationMode": "enforce", "ReencryptMode": "enforce", "ReencryptAliases": "alias/app*"}, func(d *deployed) {
		t := d.T
		matched := func(metric string) bool {
			pattern := d.stack.Resources[metric+"Metric"].Properties["FilterPattern"].(string)
			for line := range strings.Lines(d.log.String()) {
				if must(deploy.FilterMatches(pattern, line))(t) {
					return true
				}
			}
			return false
		}
		without := func(denied ...string) {
			d.box.AWS.SetIdentityPolicy(roles["EventsRole"], func(action, _ string) bool { return !slices.Contains(denied, action) })
		}
		rotating, next := d.key(""), ""
		must(d.kms.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &rotating}))(t)
		d.key(appAlias)
		next = d.key("")
		d.bucket("app-plain", appAlias, 1, func(*s3.CreateBucketInput) {})
		d.start("EventsTask", "EventsRole")
		time.Sleep(65 * time.Minute)
		steps := []struct {
			metric string
			do     func()
		}{
			{"SweepsEnded", nil},
			{"CanariesBack", nil},
			{"RepairsFailed", func() {
				without("kms:EnableKeyRotation")
				must(d.kms.DisableKeyRotation(t.Context(), &kms.DisableKeyRotationInput{KeyId: &rotating}))(t)
				time.Sleep(time.Hour)
				without()
			}},
			{"JobsStalled", func() { // no task for jobs runs
				must(d.kms.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: aws.String(appAlias), TargetKeyId: &next}))(t)
				time.Sleep(3 * time.Hour)
			}},
			{"AlertsUndelivered", func() {
				without("sns:Publish")
				must(d.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &rotating}))(t)
				time.Sleep(2 * time.Hour)
			}},
			{"WorkersBlind", func() {
				without("sqs:ReceiveMessage")
				time.Sleep(10 * time.Minute)
			}},
		}
		for _, step := range steps {
			if step.do != nil {
				if matched(step.metric) {
					t.Errorf("%s: a line matches although nothing has happened", step.metric)
				}
				step.do()
			}
			if !matched(step.metric) {
				t.Errorf("%s: no line matches", step.metric)
			}
		}
		if filters := d.stack.OfType("AWS::Logs::MetricFilter"); len(filters) != len(steps) {
			t.Errorf("of the filters %q, %d are tested", filters, len(steps))
		}
	})
}

// TestDemoUnderTheRoles plays the demo with a worker of each role of the template.
func TestDemoUnderTheRoles(t *testing.T) {
	t.Parallel()
	stack := stackOf(t, map[string]string{
		"RotationMode": "enforce", "PolicyMode": "enforce", "DeletionMode": "enforce", "ReencryptMode": "enforce", "ReencryptAliases": "alias/demo-*",
	})
	d := &deployed{T: t, stack: stack}
	held := make(chan struct{})
	work := demoWorker(slog.New(slog.DiscardHandler))
	summary := must(demo.Run(t.Context(), demo.Options{
		Command: demoOperator,
		Objects: 4, Patience: patience,
		BeforeEvents: func(_ context.Context, box *sandbox.Sandbox) error {
			d.box = box
			d.create()
			for role, accessKey := range roles {
				d.hold(role, accessKey)
			}
			close(held)
			return nil
		},
		Worker: func(ctx context.Context, environment map[string]string, cfg aws.Config, ready func()) error {
			<-held
			g, ctx := errgroup.WithContext(ctx)
			for role, pools := range map[string]string{"EventsRole": "events", "JobsRole": "jobs"} {
				own := maps.Clone(environment)
				own["CMKEEPER_POOLS"] = pools
				if pools == "jobs" {
					delete(own, "CMKEEPER_EVENTS_QUEUE_URL")
				}
				swept := func() {}
				if pools == "events" {
					swept = ready
				}
				config := cfg.Copy()
				config.Credentials = credentials.NewStaticCredentialsProvider(roles[role], "sandbox", "")
				g.Go(func() error { return work(ctx, own, config, swept) })
			}
			return g.Wait()
		},
	}))(t)
	if !summary.OK {
		t.Errorf("the demo: %q", summary.Problems)
	}
	d.expectNothingRefused()
}
