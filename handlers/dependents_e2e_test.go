package handlers_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws/config"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// memoryScans are the jobs of a fleet, the newest first, with their reports.
type memoryScans struct{ jobs []reencrypt.Summary }

func (s memoryScans) Jobs(context.Context, bool) ([]reencrypt.Summary, error) { return s.jobs, nil }

func (s memoryScans) Report(_ context.Context, id string) (reencrypt.Summary, error) {
	return s.jobs[slices.IndexFunc(s.jobs, func(j reencrypt.Summary) bool { return j.Job == id })], nil
}

// deafTrail never answers.
type deafTrail struct{}

func (deafTrail) Call(ctx context.Context, _ string, _, _ any) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestBlastRadius(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		other := w.newKey(kms.CreateKeyInput{})
		w.react()
		w.told.take()
		scans := memoryScans{[]reencrypt.Summary{
			{Job: "j3", Bucket: "orders-data", From: []string{other}, To: key, State: reencrypt.StateComplete, Counts: reencrypt.Counts{Moved: 7}},
			{Job: "j2", Bucket: "elsewhere", From: []string{other}, To: other, State: reencrypt.StateComplete},
			{Job: "j1", Bucket: "orders-data", From: []string{key}, To: other, State: reencrypt.StateComplete},
		}}
		w.router = w.newRouterWith(enforceAll(), func(d *reaction.Deps) { d.Scans = scans })
		must(w.kms.Encrypt(w.ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("secret"), EncryptionContext: map[string]string{"aws:dynamodb:tableName": "books"}}))
		w.aws.AWSConfig().SetRecorder(&config.Recorder{Group: config.AllBut("AWS::SNS::Topic")})
		for i := range 150 {
			w.aws.AWSConfig().Put(config.Item{Type: "AWS::EC2::Volume", ID: fmt.Sprintf("vol-%03d", i), Configuration: map[string]any{"kmsKeyId": key}})
		}
		w.aws.AWSConfig().Put(
			config.Item{Type: "AWS::EC2::Volume", ID: "vol-other", Configuration: map[string]any{"kmsKeyId": other}},
			config.Item{Type: "AWS::DynamoDB::Table", ID: "orders", Configuration: map[string]any{"ssedescription": map[string]any{"kmsmasterKeyArn": key}}},
			config.Item{Type: "AWS::SNS::Topic", ID: "hidden", Configuration: map[string]any{"KmsMasterKeyId": "alias/orders"}},
		)
		for range 3 {
			must(w.kms.CreateGrant(w.ctx, &kms.CreateGrantInput{
				KeyId: &key, GranteePrincipal: aws.String("arn:aws:iam::" + account + ":role/reader"), RetiringPrincipal: aws.String("arn:aws:iam::" + account + ":role/" + time.Now().Format("r150405.000")),
				Operations: []kmstypes.GrantOperation{kmstypes.GrantOperationDecrypt},
			}))
			time.Sleep(time.Second)
		}
		must(w.kms.CreateGrant(w.ctx, &kms.CreateGrantInput{
			KeyId: &key, GranteePrincipal: aws.String("arn:aws:iam::" + account + ":role/reader"), Operations: []kmstypes.GrantOperation{kmstypes.GrantOperationDecrypt},
			Constraints: &kmstypes.GrantConstraints{EncryptionContextSubset: map[string]string{"aws:rds:db-id": "db-ABC"}},
		}))
		w.react()
		w.told.take() // what the grants came to
		lookups := w.aws.Requests("cloudtrail", "LookupEvents")
		w.scheduleDeletion(key)
		w.react()
		a := w.one()
		for name, want := range map[string]string{
			"aliases":                                   "alias/orders",
			"grants":                                    "arn:aws:iam::" + account + ":role/reader may Decrypt (4 grants)",
			"resources encrypted with it":               "1 DynamoDB table: orders\n150 EBS volumes: vol-000; vol-001; vol-002; vol-003; vol-004; and 145 more\nunknown of SNS topics: the recorder of AWS Config does not record the type",
			"resources that grants name":                "1 RDS DB instance: db-ABC, grant ",
			"resources that recent uses name":           "1 DynamoDB table: books, Encrypt at 2000-01-01T00:",
			"buckets encrypted with it by default":      "none",
			"objects, by the reports of re-encryptions": "orders-data/: job j3, which moves object versions under this key, is complete",
			"last use":                                  "Encrypt at 2000-01-01T00:",
			"recent callers":                            "mallory (IAM user in 444455556666): ScheduleKeyDeletion once, at 2000-01-01 00:",
			"not looked at":                             "other Regions and accounts; EBS snapshots, ",
		} {
			if got := facts(a, name); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if n := w.aws.Requests("cloudtrail", "LookupEvents") - lookups; n != 1 {
			t.Errorf("CloudTrail was asked %d times", n)
		}
		if got := facts(a, "recent callers"); !strings.Contains(got, "mallory (IAM user in 444455556666): Encrypt once, at") || !strings.Contains(got, "of these events are cmkeeper's own") {
			t.Errorf("recent callers: %q", got)
		}
		for _, f := range a.Facts {
			if f.Name != "not looked at" && !strings.Contains(f.Source, ", 2000-01-01 00:") {
				t.Errorf("fact %s does not say when it was read: %q", f.Name, f.Source)
			}
		}
		if strings.Contains(facts(a, "objects, by the reports of re-encryptions"), "j1") {
			t.Error("an older report of the same bucket is told")
		}
	})
}

// TestBlastRadiusUnknown: what cannot be read is said to be unknown, and the
// alarm comes all the same.
func TestBlastRadiusUnknown(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.router = w.newRouterWith(enforceAll(), func(d *reaction.Deps) { d.Trail = deafTrail{} })
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool {
			return !slices.Contains([]string{"kms:ListAliases", "kms:ListGrants", "kms:GetKeyLastUsage", "s3:ListAllMyBuckets", "config:DescribeConfigurationRecorders", "config:SelectResourceConfig"}, action)
		})
		w.scheduleDeletion(key)
		body := w.event("ScheduleKeyDeletion")
		began := time.Now()
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the alarm took %s", took)
		}
		a := w.one()
		if a.Action.Status != alert.StatusDone || w.state(key) != "Enabled" {
			t.Errorf("alert:\n%s", a.Text())
		}
		for _, name := range []string{"aliases", "grants", "buckets encrypted with it by default", "objects, by the reports of re-encryptions", "last use", "recent callers", "resources encrypted with it"} {
			if got := facts(a, name); !strings.HasPrefix(got, "unknown: ") {
				t.Errorf("%s: %q", name, got)
			}
		}
	})
}
