package handlers_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
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
		must(w.kms.Encrypt(w.ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("secret")}))
		for range 3 {
			must(w.kms.CreateGrant(w.ctx, &kms.CreateGrantInput{
				KeyId: &key, GranteePrincipal: aws.String("arn:aws:iam::" + account + ":role/reader"), RetiringPrincipal: aws.String("arn:aws:iam::" + account + ":role/" + time.Now().Format("r150405.000")),
				Operations: []kmstypes.GrantOperation{kmstypes.GrantOperationDecrypt},
			}))
			time.Sleep(time.Second)
		}
		w.react()
		w.told.take() // what the grants came to
		w.scheduleDeletion(key)
		w.react()
		a := w.one()
		for name, want := range map[string]string{
			"aliases":                              "alias/orders",
			"grants":                               "arn:aws:iam::" + account + ":role/reader may Decrypt (3 grants)",
			"buckets encrypted with it by default": "none",
			"objects, by the reports of re-encryptions": "orders-data/: job j3, which moves object versions under this key, is complete",
			"last use":       "Encrypt at 2000-01-01T00:",
			"recent callers": "mallory (IAM user in 444455556666): ScheduleKeyDeletion once, at 2000-01-01 00:",
			"not looked at":  "Other Regions and accounts",
		} {
			if got := facts(a, name); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
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
			return !slices.Contains([]string{"kms:ListAliases", "kms:ListGrants", "kms:GetKeyLastUsage", "s3:ListAllMyBuckets"}, action)
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
		for _, name := range []string{"aliases", "grants", "buckets encrypted with it by default", "objects, by the reports of re-encryptions", "last use", "recent callers"} {
			if got := facts(a, name); !strings.HasPrefix(got, "unknown: ") {
				t.Errorf("%s: %q", name, got)
			}
		}
	})
}

// TestBucketOfUnknownKey: a bucket that names an alias that may not be looked up may be
// encrypted under the key, and one that names a dead alias is not.
func TestBucketOfUnknownKey(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		secret := w.knownKey("alias/secret")
		w.bucket("dead-data", "alias/gone")
		w.bucket("secret-data", "alias/secret")
		w.aws.SetIdentityPolicy(keeperKey, func(action, resource string) bool { return action != "kms:DescribeKey" || resource != secret })
		w.scheduleDeletion(key)
		if err := w.handle(w.event("ScheduleKeyDeletion")); err != nil {
			t.Fatal(err)
		}
		got := facts(w.one(), "buckets encrypted with it by default")
		if !strings.HasPrefix(got, "unknown: bucket secret-data names alias/secret") || strings.Contains(got, "dead-data") {
			t.Errorf("buckets: %q", got)
		}
	})
}
