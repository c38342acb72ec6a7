package handlers_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// An answer that is lost after KMS did its work makes the SDK call again: both
// calls come back as events, and both are ours.
func TestLostAnswerIsStillAnEcho(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		w.aws.SetFaults(localaws.Fault{Service: "kms", Operations: []string{"EnableKeyRotation"}, Effect: localaws.DropAfter, Count: 1})
		w.react()
		if got := w.rotation(key); got != 180 {
			t.Errorf("rotation period %d, want 180", got)
		}
		if got := w.aws.Requests("kms", "EnableKeyRotation"); got < 3 {
			t.Fatalf("%d calls of EnableKeyRotation: none was repeated", got)
		}
		w.one() // the rotation's own, and no alarm about our role
	})
}

// Two workers get the same message at the same time.
func TestTwoWorkersOneMessage(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		body := w.event("DisableKeyRotation")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				err := w.newRouter(enforceAll()).Handle(w.ctx, handlers.Message{Body: []byte(body)})
				if d := outcome.Of(err); d.Action != outcome.Delete && d.Action != outcome.Delay {
					t.Errorf("outcome %v: %v", d.Action, err)
				}
			})
		}
		wg.Wait()
		w.react()
		if got := w.rotation(key); got != 180 {
			t.Errorf("rotation period %d, want 180", got)
		}
		w.one()
	})
}

// slowKMS does what it says a while later.
type slowKMS struct {
	reaction.KMS
	delay time.Duration
	wg    sync.WaitGroup
}

func (s *slowKMS) EnableKeyRotation(ctx context.Context, in *kms.EnableKeyRotationInput, _ ...func(*kms.Options)) (*kms.EnableKeyRotationOutput, error) {
	s.wg.Go(func() {
		time.Sleep(s.delay)
		_, _ = s.KMS.EnableKeyRotation(context.WithoutCancel(ctx), in)
	})
	return &kms.EnableKeyRotationOutput{}, nil
}

// A repair is not said to be done before it can be read back.
func TestReadBackIsPolled(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		slow := &slowKMS{KMS: kms.NewFromConfig(inprocess.Config(w.aws, region, keeperKey)), delay: 8 * time.Second}
		w.router = w.newRouterWith(enforceAll(), func(d *reaction.Deps) { d.KMS = slow })
		w.disableRotation(key)
		body := w.event("DisableKeyRotation")
		if d := outcome.Of(w.router.Handle(w.ctx, handlers.Message{Body: []byte(body)})); d.Action != outcome.Delay {
			t.Fatalf("outcome %v (%v), want a wait", d.Action, d.Err)
		}
		w.none()
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		slow.wg.Wait()
		if a := w.one(); a.Action.Status != alert.StatusDone || w.rotation(key) != 180 {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestKeyThatCannotBeRead(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		rotation := w.event("DisableKeyRotation")
		w.scheduleDeletion(key)
		deletion := w.event("ScheduleKeyDeletion")
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:DescribeKey" })
		for _, body := range []string{rotation, deletion} {
			if err := w.handle(body); outcome.Of(err).Action != outcome.Retry {
				t.Errorf("outcome of %v, want retry", err)
			}
			if a := w.one(); a.Action.Status != alert.StatusFailed || !strings.Contains(a.Text(), "could not read the key") {
				t.Errorf("alert:\n%s", a.Text())
			}
		}
	})
}

func TestKeyThatIsNotOurs(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		body := w.event("DisableKeyRotation")
		for _, other := range []string{
			strings.ReplaceAll(body, account, "777788889999"),
			strings.ReplaceAll(body, region, "ap-south-1"),
		} {
			if err := w.handle(other); err != nil {
				t.Error(err)
			}
		}
		w.none()
	})
}

func TestImportedMaterialIsLost(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{Origin: types.OriginTypeExternal})
		material := make([]byte, 32)
		w.importMaterial(key, material, nil)
		w.react()
		w.none()
		must(w.kms.DeleteImportedKeyMaterial(w.ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &key}))
		w.react()
		a := w.one()
		if a.Severity != finding.Critical || a.Action.Status != alert.StatusNone || !strings.Contains(a.Action.Description, "cannot restore imported key material") {
			t.Errorf("alert:\n%s", a.Text())
		}
		expires := time.Now().Add(time.Hour)
		w.importMaterial(key, material, &expires)
		w.react()
		if got := w.over("was deleted"); len(got) != 1 || got[0].Kind != alert.KindMaterial || got[0].Severity != finding.High {
			t.Errorf("alerts:\n%s", texts(got))
		}
		time.Sleep(2 * time.Hour)
		w.react()
		if a := w.one(); !strings.Contains(a.Summary, "expiry date") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func (w *world) importMaterial(key string, material []byte, expires *time.Time) {
	w.t.Helper()
	in := w.wrap(key, material)
	if expires != nil {
		in.ExpirationModel, in.ValidTo = types.ExpirationModelTypeKeyMaterialExpires, expires
	}
	must(w.kms.ImportKeyMaterial(w.ctx, in))
}

// wrap returns the request that imports material which does not expire.
func (w *world) wrap(key string, material []byte) *kms.ImportKeyMaterialInput {
	w.t.Helper()
	p := must(w.kms.GetParametersForImport(w.ctx, &kms.GetParametersForImportInput{
		KeyId: &key, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048,
	}))
	public, ok := must(x509.ParsePKIXPublicKey(p.PublicKey)).(*rsa.PublicKey)
	if !ok {
		w.t.Fatal("the wrapping key is not RSA")
	}
	return &kms.ImportKeyMaterialInput{
		KeyId: &key, ImportToken: p.ImportToken, ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
		EncryptedKeyMaterial: must(rsa.EncryptOAEP(sha256.New(), rand.Reader, public, material, nil)),
	}
}

func TestReplicaIsJudgedByTheEvent(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
		w.react()
		w.told.take()
		must(w.kms.ReplicateKey(w.ctx, &kms.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-west-2"), Policy: aws.String(public)}))
		w.react()
		a := w.one()
		if !strings.Contains(a.Title, "us-west-2") || !strings.Contains(findingIDs(a), "public-principal") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestDeleteKeyEventForAKeyThatExists(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		forged := `{"version":"0","id":"9c1d","detail-type":"KMS CMK Deletion","source":"aws.kms","account":"` + account + `","time":"2000-01-01T00:00:20Z","region":"` + region + `","resources":["` + key + `"],"detail":{"key-id":"` + key[len(key)-36:] + `"}}`
		if err := w.handle(forged); err != nil {
			t.Fatal(err)
		}
		if a := w.one(); a.Severity != finding.Medium || !strings.Contains(a.Summary, "still exists") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// Two aliases that are moving and claim the same bucket: nothing moves, people decide.
func TestTwoMovingAliasesOneBucket(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a, c := w.knownKey("alias/app-a"), w.knownKey("alias/app-c")
		b := w.newKey(kms.CreateKeyInput{})
		w.react()
		w.bucket("data-a", "alias/app-a")
		w.updateAlias("alias/app-a", b)
		w.react()
		w.wantStarted("app-a " + short(a) + " -> " + short(b) + " in [{data-a }]")
		w.told.take()
		w.bucket("data-c", c)
		w.tag("data-c", "alias/app-c alias/app-a")
		w.updateAlias("alias/app-c", b)
		w.react()
		w.wantStarted()
		if got := w.one(); got.Action.Status != alert.StatusRefused || !strings.Contains(facts(got, "not in scope"), "alias/app-a is moving too") {
			t.Errorf("alert:\n%s", got.Text())
		}
	})
}
