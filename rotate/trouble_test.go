package rotate_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/rotate"
	"github.com/cmkeeper/cmkeeper/state"
)

// TestDeleteOld schedules the deletion of the old key a month later, with processes that
// are killed after each of their writes.
func TestDeleteOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		stop := w.fleet()
		c := rotate.Choices{DeleteOld: true, UnusedDays: 30}
		rec, err := w.machine(nil).begin(c)
		w.must(err)
		stop()
		if rec.State != rotate.StateRunning || rec.Step != rotate.StepDeleteOldKey || time.Until(rec.Waits) < 29*24*time.Hour {
			t.Errorf("the rotation is %s at %q until %s: %s", rec.State, rec.Step, rec.Waits, rec.Why)
		}
		w.allUnder(rec.New)
		time.Sleep(31 * 24 * time.Hour)
		refused := w.machine(nil)
		refused.rotator.Confirm = func(retire.Result) error { return errors.New("no") }
		if _, err = resume(refused); err == nil || !strings.HasSuffix(err.Error(), ": no") {
			t.Error(err)
		}
		unasked := w.machine(nil)
		unasked.rotator.Confirm = nil
		rec, err = resume(unasked)
		w.must(err)
		if !strings.Contains(rec.Why, "confirm") {
			t.Errorf("without anybody to confirm: %s", rec.Why)
		}
		w.isIn(w.old, "Enabled")

		asked := 0
		rec, kills := w.chain(func(m *machine) (rotate.Record, error) {
			m.rotator.Confirm = func(r retire.Result) error {
				if asked++; r.Key != w.old || len(r.Notes) == 0 {
					t.Errorf("asked for %v", r)
				}
				return nil
			}
			m.pauses = func(r *http.Request) { // an approval is recorded before
				if operation(r) != "ScheduleKeyDeletion" {
					return
				}
				if a, ok, err := retire.ReadApproval(t.Context(), w.store(), w.old); !ok || err != nil || a.Days != 30 {
					t.Errorf("the approval is %v, %t, %v", a, ok, err)
				}
			}
			return resume(m)
		})
		if rec.State != rotate.StateDone || kills == 0 || asked == 0 {
			t.Errorf("the rotation is %s: %s; %d were killed, %d asked", rec.State, rec.Why, kills, asked)
		}
		w.didOnce("ScheduleKeyDeletion", 1)
		w.isIn(w.old, "PendingDeletion")
		a, ok, err := retire.ReadApproval(t.Context(), w.store(), w.old)
		if !ok || err != nil || !a.Covers(&rec.Deletion) {
			t.Errorf("the approval %v does not cover %s: %v", a, rec.Deletion, err)
		}
		if _, err := abort(false)(w.machine(nil)); err == nil || !strings.Contains(err.Error(), "cancel-key-deletion") {
			t.Errorf("abort: %v", err)
		}
	})
}

// TestDeletionAnswerLost keeps the approval of a deletion whose answer was lost: the SDK
// sends it again, and KMS refuses that.
func TestDeletionAnswerLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		stop := w.fleet()
		_, err := w.machine(nil).begin(rotate.Choices{DeleteOld: true, UnusedDays: 1})
		w.must(err)
		stop()
		time.Sleep(3 * 24 * time.Hour)
		w.aws.SetFaults(localaws.Fault{Service: "kms", Operations: []string{"ScheduleKeyDeletion"}, Effect: localaws.DropAfter, Count: 1})
		if _, err = resume(w.machine(nil)); err == nil {
			t.Log("the deletion is known to be scheduled")
		}
		rec, err := resume(w.machine(nil))
		w.must(err)
		w.isIn(w.old, "PendingDeletion")
		if a, ok, err := retire.ReadApproval(t.Context(), w.store(), w.old); !ok || err != nil || !a.Covers(&rec.Deletion) {
			t.Errorf("the fleet would cancel the deletion: %v, %t, %v", a, ok, err)
		}
	})
}

// TestUsedOldKey is not deleted.
func TestUsedOldKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		stop := w.fleet()
		_, err := w.machine(nil).begin(rotate.Choices{DeleteOld: true, UnusedDays: 10})
		w.must(err)
		stop()
		time.Sleep(9 * 24 * time.Hour)
		w.putUnder(byWriter, "stray", w.old)
		time.Sleep(2 * 24 * time.Hour)
		rec, err := resume(w.machine(nil))
		w.must(err)
		if !strings.Contains(rec.Why, "GenerateDataKey at") || rec.Waits.Before(time.Now()) {
			t.Errorf("it waits until %s: %s", rec.Waits, rec.Why)
		}
		time.Sleep(9 * 24 * time.Hour)
		rec, err = resume(w.machine(nil))
		w.must(err)
		if rec.State != rotate.StateRunning || len(rec.Left) != 1 || rec.Left[0].ID != "objects:"+byWriter || !rec.Waits.IsZero() {
			t.Errorf("the rotation is %s, and left are %v: %s", rec.State, rec.Left, rec.Why)
		}
		w.isIn(w.old, "Enabled")
		w.didOnce("ScheduleKeyDeletion", 0)
	})
}

// freeze stops a machine with its nth request of an operation, as a laptop that is closed,
// and lets it go on later.
func freeze(m *machine, operationName string, n int64, d time.Duration) {
	var seen atomic.Int64
	var thaws atomic.Int64
	m.pauses = func(r *http.Request) {
		if operation(r) == operationName && seen.Add(1) == n {
			thaws.Store(time.Now().Add(d).UnixNano())
		}
		time.Sleep(time.Until(time.Unix(0, thaws.Load())))
	}
}

// stopped reports whether a machine stopped because it has lost its lease.
func stopped(err error) bool {
	return errors.Is(err, rotate.ErrBusy) || err != nil && strings.Contains(err.Error(), "renew the lease")
}

// TestFrozen has a machine stand still in the middle of its work, while another one does
// the rest, and then go on.
func TestFrozen(t *testing.T) {
	for _, tt := range []struct {
		operation string
		n         int64
	}{{"PutKeyPolicy", 1}, {"EnableKeyRotation", 1}, {"UpdateAlias", 1}, {"UpdateAlias", 2}, {"PutBucketEncryption", 1}, {"SendMessage", 2}} {
		t.Run(fmt.Sprint(tt.operation, tt.n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				defer w.fleet()()
				frozen := w.machine(func(m *machine) { freeze(m, tt.operation, tt.n, time.Hour) })
				var lost error
				var running sync.WaitGroup
				running.Go(func() { _, lost = frozen.begin(rotate.Choices{}) })
				time.Sleep(5 * time.Minute)
				rec, err := resume(w.machine(nil))
				w.must(err)
				running.Wait()
				if !stopped(lost) {
					t.Errorf("the machine that stood still: %v", lost)
				}
				w.didOnce("CreateKey", 1)
				delete(w.done, "UpdateAlias") // sent again, it changes nothing
				w.done["UpdateAlias"] = 2
				w.done["PutBucketEncryption"] = 1
				w.isRotated(rec)
			})
		})
	}
}

// TestFrozenBeforeCreateKey cannot keep a second key from being made, since CreateKey has
// no token: it has the tag, and nothing uses it.
func TestFrozenBeforeCreateKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.fleet()()
		frozen := w.machine(func(m *machine) { freeze(m, "CreateKey", 1, time.Hour) })
		var lost error
		var running sync.WaitGroup
		running.Go(func() { _, lost = frozen.begin(rotate.Choices{}) })
		time.Sleep(5 * time.Minute)
		rec, err := resume(w.machine(nil))
		w.must(err)
		running.Wait()
		made := w.tagged()
		if len(made) != 2 || !stopped(lost) {
			t.Fatalf("%v are new; %v", made, lost)
		}
		w.pointsTo(rec.New)
		w.allUnder(rec.New)
	})
}

// TestTwoAtOnce has a second person try to work on a rotation that somebody works on.
func TestTwoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		var first rotate.Record
		var firstErr error
		var running sync.WaitGroup
		running.Go(func() { first, firstErr = w.machine(nil).begin(rotate.Choices{}) }) // follows a job that nobody does
		time.Sleep(10 * time.Minute)
		for name, do := range map[string]func(*machine) (rotate.Record, error){
			"begin":  func(m *machine) (rotate.Record, error) { return m.begin(rotate.Choices{}) },
			"resume": resume, "abort": abort(false),
		} {
			if _, err := do(w.machine(nil)); !errors.Is(err, rotate.ErrBusy) {
				t.Errorf("%s while somebody works on it: %v", name, err)
			}
		}
		stop := w.fleet()
		running.Wait()
		stop()
		w.must(firstErr)
		w.isRotated(first)
	})
}

// TestTwoBeginAtOnce has two people begin at the same moment.
func TestTwoBeginAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.fleet()()
		var running sync.WaitGroup
		var errs [2]error
		for i := range errs {
			running.Go(func() { _, errs[i] = w.machine(nil).begin(rotate.Choices{}) })
		}
		running.Wait()
		if errs[0] != nil && errs[1] != nil {
			t.Error(errs)
		}
		rec, err := rotate.Read(t.Context(), w.store(), app)
		w.must(err)
		w.isRotated(rec)
		all, err := rotate.List(t.Context(), w.store())
		if err != nil || len(all) != 1 {
			t.Errorf("%d rotations, %v", len(all), err)
		}
	})
}

// TestLeaseCannotBeRenewed ends the work of a machine that cannot reach S3 before somebody
// else may go on.
func TestLeaseCannotBeRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		var cut atomic.Bool
		m := w.machine(func(m *machine) {
			m.refuses = func(r *http.Request) bool {
				return cut.Load() && strings.HasPrefix(r.URL.Path, "/"+stateBucket+"/cmkeeper/rotations/")
			}
		})
		ended := make(chan time.Time)
		go func() {
			if _, err := m.begin(rotate.Choices{}); err == nil {
				t.Error("it went on without its lease")
			}
			ended <- time.Now()
		}()
		time.Sleep(10 * time.Minute)
		cut.Store(true)
		began := time.Now()
		at := <-ended // includes 10 seconds in which it tries to give the lease back
		if took := at.Sub(began); took > 2*time.Minute {
			t.Errorf("it worked for another %s", took)
		}
		stop := w.fleet()
		rec, err := resume(w.machine(nil))
		stop()
		w.must(err)
		w.isRotated(rec)
	})
}

// wrong gives a machine a clock that is ahead by d. Its own clock is the bubble's here: what
// it hears of S3's and KMS's clocks is shifted instead, and so are the times that it shares.
func wrong(d time.Duration) func(*machine) { return func(m *machine) { m.ahead = d } }

// TestWrongClocks is killed on machines whose clocks differ by ten minutes.
func TestWrongClocks(t *testing.T) {
	clocks := []time.Duration{5 * time.Minute, -5 * time.Minute, 0}
	t.Run("killed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			defer w.fleet()()
			turn := 0
			w.hire = func(m *machine) {
				turn++
				wrong(clocks[turn%len(clocks)])(m)
			}
			rec, _ := w.chain(func(m *machine) (rotate.Record, error) { return m.begin(rotate.Choices{}) })
			w.isRotated(rec)
		})
	})
	for i, ahead := range clocks {
		t.Run(fmt.Sprint("busy ", ahead), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				var running sync.WaitGroup
				var rec rotate.Record
				var err error
				running.Go(func() { rec, err = w.machine(wrong(ahead)).begin(rotate.Choices{}) })
				time.Sleep(20 * time.Minute)
				if _, err := resume(w.machine(wrong(clocks[(i+1)%len(clocks)]))); !errors.Is(err, rotate.ErrBusy) {
					t.Errorf("the lease does not hold: %v", err)
				}
				stop := w.fleet()
				running.Wait()
				stop()
				w.must(err)
				w.isRotated(rec)
			})
		})
	}
}

var (
	storedTime = regexp.MustCompile(`"([a-z_]+)":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))"`)
	kmsTime    = regexp.MustCompile(`"(CreationDate|Timestamp)":([0-9.]+(?:E[0-9]+)?)`)
)

// shifted are the times of a stored document, moved.
func shifted(doc []byte, by time.Duration) []byte {
	return storedTime.ReplaceAllFunc(doc, func(member []byte) []byte {
		parts := storedTime.FindSubmatch(member)
		at, err := time.Parse(time.RFC3339Nano, string(parts[2]))
		if err != nil || at.IsZero() || string(parts[1]) == "ordered" { // which the job's id is made of
			return member
		}
		return fmt.Appendf(nil, `"%s":"%s"`, parts[1], at.Add(by).Format(time.RFC3339Nano))
	})
}

// skewed is S3 for the records of rotations, as a machine with a wrong clock sees it.
type skewed struct {
	*s3.Client
	ahead time.Duration
}

func isRecord(key *string) bool { return strings.HasPrefix(*key, "cmkeeper/rotations/id/") }

func (s skewed) PutObject(ctx context.Context, in *s3.PutObjectInput, change ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	if s.ahead == 0 || !isRecord(in.Key) {
		return s.Client.PutObject(ctx, in, change...)
	}
	doc, err := io.ReadAll(in.Body)
	if err != nil {
		return nil, err
	}
	moved := *in
	moved.Body = bytes.NewReader(shifted(doc, s.ahead))
	return s.Client.PutObject(ctx, &moved, change...)
}

func (s skewed) GetObject(ctx context.Context, in *s3.GetObjectInput, change ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	out, err := s.Client.GetObject(ctx, in, change...)
	if err != nil || s.ahead == 0 || !isRecord(in.Key) {
		return out, err
	}
	doc, err := io.ReadAll(out.Body)
	if err != nil {
		return nil, err
	}
	out.Body = io.NopCloser(bytes.NewReader(shifted(doc, -s.ahead)))
	return out, nil
}

var _ state.S3 = skewed{}

// answersLate moves the times of an answer back by how far the machine's clock is ahead.
func (m *machine) answersLate(answer *http.Response) *http.Response {
	if m.ahead == 0 {
		return answer
	}
	answer.Header.Set("Date", time.Now().Add(-m.ahead).UTC().Format(http.TimeFormat))
	if !strings.Contains(answer.Header.Get("Content-Type"), "amz-json") {
		return answer
	}
	body, err := io.ReadAll(answer.Body)
	m.must(err)
	body = kmsTime.ReplaceAllFunc(body, func(member []byte) []byte {
		parts := kmsTime.FindSubmatch(member)
		seconds, err := strconv.ParseFloat(string(parts[2]), 64)
		m.must(err)
		return fmt.Appendf(nil, `"%s":%f`, parts[1], seconds-m.ahead.Seconds())
	})
	answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	answer.Header.Del("Content-Length")
	return answer
}

// deny makes the person's identity policy refuse what f says.
func (w *world) deny(f func(action, resource string) bool) {
	w.aws.AddIdentity("person", wire.Caller{
		AccountID: account, Type: "IAMUser", ARN: "arn:aws:iam::" + account + ":user/person", UserName: "person", PrincipalID: "AIDAPERSON",
		Allowed: func(action, resource string) bool { return !f(action, resource) },
	})
}

// TestTagsCannotBeRead looks for the key of a CreateKey whose answer was lost, where the
// tags of new keys cannot be read.
func TestTagsCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.fleet()()
		first := w.machine(func(m *machine) { m.dies, m.after, m.counts = 1, true, only("CreateKey") })
		if _, err := first.begin(rotate.Choices{}); err == nil {
			t.Fatal("it was not killed")
		}
		w.deny(func(action, resource string) bool { return action == "kms:ListResourceTags" && resource != w.old })
		made := w.tagged()
		for range 2 {
			_, err := resume(w.machine(nil))
			if err == nil || len(made) != 1 || !strings.Contains(err.Error(), made[0]) || !strings.Contains(err.Error(), "kms:ListResourceTags") {
				t.Errorf("%v is new; %v", made, err)
			}
			time.Sleep(time.Hour)
		}
		w.didOnce("CreateKey", 1)
		w.deny(func(string, string) bool { return false })
		rec, err := resume(w.machine(nil))
		w.must(err)
		w.isRotated(rec)
	})
}

// TestCreateKeyIsRefused says what it takes, and makes one key when that is there.
func TestCreateKeyIsRefused(t *testing.T) {
	refusal := func(status int, code, message string) func(*http.Request) *http.Response {
		return func(r *http.Request) *http.Response {
			if operation(r) != "CreateKey" {
				return nil
			}
			return &http.Response{
				StatusCode: status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}, "X-Amzn-Requestid": {"r"}},
				Body: io.NopCloser(strings.NewReader(`{"__type":"` + code + `","message":"` + message + `"}`)), Request: r,
			}
		}
	}
	for name, tt := range map[string]struct {
		answer func(*http.Request) *http.Response
		denied string // an action
		says   string
		open   bool // whether there may be a key
	}{
		"the key denied":     {denied: "kms:CreateKey", says: "takes the permission kms:CreateKey"},
		"its tags denied":    {denied: "kms:TagResource", says: "kms:TagResource"},
		"a malformed policy": {answer: refusal(400, "MalformedPolicyDocumentException", "no such principal"), says: "no such principal"},
		"a limit":            {answer: refusal(400, "LimitExceededException", "too many keys"), says: "too many keys"},
		"throttled":          {answer: refusal(400, "ThrottlingException", "slower"), says: "slower"},
		"an internal error":  {answer: refusal(500, "KMSInternalException", "sorry"), says: "sorry", open: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				defer w.fleet()()
				if tt.denied != "" {
					w.deny(func(action, _ string) bool { return action == tt.denied })
				}
				rec, err := w.machine(func(m *machine) { m.answers = tt.answer }).begin(rotate.Choices{})
				if err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("the error is %v", err)
				}
				if rec.Creating.IsZero() == tt.open {
					t.Errorf("a key may have been created at %s", rec.Creating)
				}
				w.deny(func(string, string) bool { return false })
				began := time.Now()
				rec, err = resume(w.machine(nil))
				w.must(err)
				w.isRotated(rec)
				if took := time.Since(began); took > 3*time.Minute && !tt.open {
					t.Errorf("it looked for a key that cannot be there for %s", took)
				}
			})
		})
	}
}

// TestCreateKeyAnswerLost finds the key by its tag, in the same process or in another one.
func TestCreateKeyAnswerLost(t *testing.T) {
	for _, effect := range []localaws.Effect{localaws.DropAfter, localaws.FailAfter, localaws.DropBefore} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			defer w.fleet()()
			w.aws.SetFaults(localaws.Fault{Service: "kms", Operations: []string{"CreateKey"}, Effect: effect, Count: 1})
			m := w.machine(nil)
			if _, err := m.begin(rotate.Choices{}); err == nil {
				t.Error("the answer was not lost")
			}
			rec, err := resume(m)
			w.must(err)
			w.done["CreateKey"] = 1 // an answer that is lost is not seen as one
			w.isRotated(rec)
		})
	}
}

// TestRotateMaterial gives a key its next imported material, with processes that are
// killed after each of their writes.
func TestRotateMaterial(t *testing.T) {
	wrapping := func(w *world, key string, kind kmstypes.ImportType) {
		in, err := w.kms.GetParametersForImport(w.t.Context(), &kms.GetParametersForImportInput{
			KeyId: &key, WrappingAlgorithm: kmstypes.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: kmstypes.WrappingKeySpecRsa2048,
		})
		w.must(err)
		public, err := x509.ParsePKIXPublicKey(in.PublicKey)
		w.must(err)
		material := make([]byte, 32)
		_, _ = rand.Read(material)
		wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), material, nil)
		w.must(err)
		_, err = w.kms.ImportKeyMaterial(w.t.Context(), &kms.ImportKeyMaterialInput{
			KeyId: &key, ImportToken: in.ImportToken, EncryptedKeyMaterial: wrapped, ImportType: kind, ExpirationModel: kmstypes.ExpirationModelTypeKeyMaterialDoesNotExpire,
		})
		w.must(err)
	}
	imported := func(t *testing.T) *world {
		w := emptyWorld(t)
		created, err := w.kms.CreateKey(t.Context(), &kms.CreateKeyInput{Origin: kmstypes.OriginTypeExternal})
		w.must(err)
		w.old = *created.KeyMetadata.Arn
		wrapping(w, w.old, "")
		for _, name := range []string{app, logs} {
			_, err = w.kms.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &w.old})
			w.must(err)
		}
		wrapping(w, w.old, kmstypes.ImportTypeNewKeyMaterial)
		return w
	}
	rotations := func(w *world) int {
		out, err := w.kms.ListKeyRotations(w.t.Context(), &kms.ListKeyRotationsInput{KeyId: &w.old})
		w.must(err)
		return len(out.Rotations)
	}
	synctest.Test(t, func(t *testing.T) {
		w := imported(t)
		time.Sleep(time.Hour)
		rec, kills := w.chain(func(m *machine) (rotate.Record, error) { return m.begin(rotate.Choices{}) })
		if rec.State != rotate.StateDone || rec.New != "" || len(w.tagged()) > 0 || kills == 0 {
			t.Errorf("the rotation is %s, %d killed, %v are new", rec.State, kills, w.tagged())
		}
		if n := rotations(w); n != 1 {
			t.Errorf("the key was rotated %d times", n)
		}
		if _, err := abort(false)(w.machine(nil)); !errors.Is(err, rotate.ErrState) {
			t.Errorf("abort: %v", err)
		}
	})
	t.Run("answer lost", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := imported(t)
			w.aws.SetFaults(localaws.Fault{Service: "kms", Operations: []string{"RotateKeyOnDemand"}, Effect: localaws.DropAfter, Count: 1})
			rec, err := w.machine(nil).begin(rotate.Choices{})
			w.must(err)
			if rec.State != rotate.StateDone || rotations(w) != 1 {
				t.Errorf("the rotation is %s, the key was rotated %d times", rec.State, rotations(w))
			}
		})
	})
	t.Run("material gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := imported(t)
			m := w.machine(nil)
			rec, _, err := m.rotator.Start(t.Context(), app, nil, rotate.Choices{})
			w.must(err)
			if rec.Step != rotate.StepRotateMaterial {
				t.Fatalf("the step is %s", rec.Step)
			}
			out, err := w.kms.ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: &w.old, IncludeKeyMaterial: kmstypes.IncludeKeyMaterialAllKeyMaterial})
			w.must(err)
			for _, r := range out.Rotations {
				if r.KeyMaterialState == kmstypes.KeyMaterialStatePendingRotation {
					_, err := w.kms.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: &w.old, KeyMaterialId: r.KeyMaterialId})
					w.must(err)
				}
			}
			if rec, err = resume(m); err == nil || !strings.Contains(err.Error(), "was not rotated") {
				t.Errorf("the rotation is %s, %v: %v", rec.State, rec.Done, err)
			}
		})
	})
	t.Run("denied", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := imported(t)
			w.deny(func(action, _ string) bool { return action == "kms:RotateKeyOnDemand" })
			if _, err := w.machine(nil).begin(rotate.Choices{}); err == nil || !strings.Contains(err.Error(), "takes the permission kms:RotateKeyOnDemand") {
				t.Error(err)
			}
		})
	})
}
