package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// TestReplay replays what happened in an account without a worker, as messages
// of a queue and as a CloudTrail log file.
func TestReplay(t *testing.T) {
	a := newAccount(t)
	a.enter()
	rotating, doomed := a.newRotatingKey(), a.newKey("alias/doomed")
	a.disableRotation(rotating)
	must(a.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &doomed, PendingWindowInDays: aws.Int32(7)}))(t)

	messages := a.takeEvents()
	var log struct{ Records []json.RawMessage }
	for _, body := range messages {
		var envelope struct{ Detail json.RawMessage }
		if err := json.Unmarshal([]byte(body), &envelope); err != nil {
			t.Fatal(err)
		}
		log.Records = append(log.Records, envelope.Detail)
	}
	files := map[string]string{
		"messages":       strings.Join(messages, "\n"),
		"CloudTrail log": string(must(json.Marshal(log))(t)),
	}
	for name, text := range files {
		t.Run(name, func(t *testing.T) {
			writes := a.writesBut()
			code, out, errs := a.command("replay", "--json", writeFile(t, text))
			if code != exitOK {
				t.Errorf("exit code %d, %s", code, errs)
			}
			would := map[string]bool{}
			for line := range strings.Lines(out) {
				var told alert.Alert
				if err := json.Unmarshal([]byte(line), &told); err != nil {
					t.Fatalf("%v in %s", err, line)
				}
				would[string(told.Kind)+" "+told.Key.ARN+" "+string(told.Action.Status)] = true
			}
			for _, want := range []string{"rotation " + rotating + " would-do", "deletion " + doomed + " would-do"} {
				if !would[want] {
					t.Errorf("no alert %q in %s", want, out)
				}
			}
			if calls := writes.calls(); len(calls) > 0 {
				t.Errorf("replay wrote: %q", calls)
			}
		})
	}
	if period := a.rotation(rotating); period != 0 {
		t.Errorf("rotation was switched on, every %d days", period)
	}
	key := must(a.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &doomed}))(t).KeyMetadata
	if key.KeyState != kmstypes.KeyStatePendingDeletion {
		t.Errorf("the key is %s", key.KeyState)
	}
	state := must(a.s3.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String(sandbox.StateBucket)}))(t)
	if a.collect(); len(a.inbox) > 0 || len(state.Contents) > 0 {
		t.Errorf("%d objects in the state bucket, alerts sent:\n%s", len(state.Contents), titles(a.inbox))
	}
}

// TestReplayForPeople looks at the text, with an event among others that is none.
func TestReplayForPeople(t *testing.T) {
	a := newAccount(t)
	a.enter()
	key := a.newRotatingKey()
	a.disableRotation(key)
	file := writeFile(t, `{"hello":"world"}`+strings.Join(a.takeEvents(), "\n"))
	code, out, errs := a.command("replay", file)
	if code != exitError || !strings.Contains(errs, "event 1: ") {
		t.Errorf("exit code %d, want %d and the event's number: %s", code, exitError, errs)
	}
	for _, want := range []string{"── DisableKeyRotation by ", ", key " + key, "Would turn rotation on", "--rotation-period-in-days 365"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	if code, out, errs := a.command("replay", writeFile(t, `{"id":"1"`)); code != exitUsage || out != "" || !strings.Contains(errs, "value 1 is not JSON") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
}

// takeEvents takes the messages out of the events queue.
func (a *account) takeEvents() []string {
	a.t.Helper()
	var bodies []string
	for {
		out := must(a.sqs.ReceiveMessage(a.t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &a.box.EventsQueue, MaxNumberOfMessages: 10}))(a.t)
		if len(out.Messages) == 0 {
			return bodies
		}
		for _, m := range out.Messages {
			bodies = append(bodies, *m.Body)
		}
	}
}

func writeFile(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "events.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestReplayEnforcesNothing: a mode that enforces is replayed as one that observes,
// whichever reaction it is of.
func TestReplayEnforcesNothing(t *testing.T) {
	environment := map[string]string{"CMKEEPER_REENCRYPT_ALIASES": "*"}
	modes := 0
	for _, v := range variables() {
		if strings.HasSuffix(v.Name, "_MODE") {
			environment[envPrefix+v.Name] = "enforce"
			modes++
		}
	}
	c := must(loadReplay(t.Context(), environment))(t)
	for _, f := range reflect.VisibleFields(reflect.TypeOf(c)) {
		if got := reflect.ValueOf(c).FieldByIndex(f.Index); strings.HasSuffix(f.Name, "Mode") && got.String() != "observe" {
			t.Errorf("%s is %s", f.Name, got)
		}
	}
	if modes < 5 {
		t.Errorf("only %d modes", modes)
	}
}
