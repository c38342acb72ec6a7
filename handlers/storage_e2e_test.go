package handlers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws/config"
)

// checking asks AWS Config once a day.
func checking() reaction.Config {
	c := enforceAll()
	c.ConfigChecks, c.MatchTags = true, []string{"owner"}
	return c
}

// recordsStorage has AWS Config record everything.
func (w *world) recordsStorage() *config.Service {
	w.aws.AWSConfig().SetRecorder(&config.Recorder{Group: config.All()})
	return w.aws.AWSConfig()
}

func volume(id string, encrypted bool, key, owner string) config.Item {
	return config.Item{
		Type: "AWS::EC2::Volume", ID: id, Tags: map[string]string{"owner": owner},
		Configuration: map[string]any{"encrypted": encrypted, "kmsKeyId": key},
	}
}

// TestStorageIsChecked: storage that is not encrypted as it should be is told once by type,
// again when there is more of it, and that it is over when two days show that. AWS Config is
// asked once a day.
func TestStorageIsChecked(t *testing.T) {
	const day = 24 * time.Hour
	inWorld(t, checking(), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{Tags: []types.Tag{{TagKey: new("owner"), TagValue: new("web")}}})
		w.enableRotation(key, 365)
		w.react()
		w.told.take()
		recorded := w.recordsStorage()
		recorded.Put(volume("vol-good", true, key, "web"))
		w.sweep()
		w.none()
		asked := w.aws.Requests("config", "SelectResourceConfig")
		if asked == 0 {
			t.Fatal("AWS Config was not asked")
		}
		for n := range 3 {
			recorded.Put(volume(fmt.Sprintf("vol-plain-%d", n), false, "", "web"))
		}
		recorded.Put(volume("vol-other", true, key, "shop\x1b[2J"))
		w.sweepAll(10)
		w.none() // within a day nobody asks
		if n := w.aws.Requests("config", "SelectResourceConfig"); n != asked {
			t.Errorf("AWS Config was asked %d times more within a day", n-asked)
		}

		time.Sleep(day)
		w.sweep()
		told := map[string]alert.Alert{}
		for _, a := range w.told.take() {
			told[a.Title] = a
		}
		plain, other := told["Storage is not encrypted: EBS volume (3)"], told["Storage has another owner than its key: EBS volume (1)"]
		if len(told) != 2 || plain.Severity != finding.Medium || plain.Kind != alert.KindEncryption || other.Severity != finding.Low {
			t.Fatalf("told: %v", told)
		}
		if text := plain.Text(); !strings.Contains(text, "EBS volume vol-plain-1") || !strings.Contains(text, "AWS Config, asked at") {
			t.Errorf("alert:\n%s", text)
		}
		if text := other.Text(); !strings.Contains(text, "vol-other") || strings.Contains(text, "\x1b") {
			t.Errorf("alert:\n%q", text)
		}
		for range 2 {
			time.Sleep(day)
			w.sweep()
			w.none()
		}

		recorded.Remove("AWS::EC2::Volume", "vol-plain-0")
		time.Sleep(day)
		w.sweep()
		w.none()      // it is less
		for range 2 { // and then as many as before, and fewer again
			recorded.Put(volume("vol-plain-9", false, "", "web"))
			time.Sleep(day)
			w.sweep()
			if a := w.one(); a.Title != "Storage is not encrypted: EBS volume (3)" || a.ID == plain.ID {
				t.Errorf("alert:\n%s", a.Text())
			}
			recorded.Remove("AWS::EC2::Volume", "vol-plain-9")
			time.Sleep(day)
			w.sweep()
			w.none()
		}

		recorded.Remove("AWS::EC2::Volume", "vol-plain-1")
		recorded.Remove("AWS::EC2::Volume", "vol-plain-2")
		time.Sleep(day)
		w.sweep()
		w.none() // the second read is a day later
		time.Sleep(day)
		w.sweep()
		if more := w.over("Storage is not encrypted"); len(more) > 0 {
			t.Errorf("more is told:\n%s", texts(more))
		}
	})
}

// TestStorageIsNotLookedAt: a recorder that stops, or a permission that is taken away, is told
// once, and ends nothing that people were told of; the next sweep that can look says so.
func TestStorageIsNotLookedAt(t *testing.T) {
	const day = 24 * time.Hour
	inWorld(t, checking(), func(w *world) {
		w.sweep()
		a := w.one()
		if a.Title != "cmkeeper cannot see how all storage is encrypted" || a.Severity != finding.Low || !strings.HasSuffix(a.Facts[0].Values[0], "and 21 more: AWS Config has no recorder in this Region") {
			t.Fatalf("alert:\n%s", a.Text())
		}
		recorded := w.recordsStorage()
		recorded.Put(volume("vol-plain", false, "", "web"))
		time.Sleep(time.Hour)
		w.sweep() // what showed nothing is asked for again, before a day is over
		if a := w.one(); a.Title != "Storage is not encrypted: EBS volume (1)" {
			t.Fatalf("alert:\n%s", a.Text())
		}
		time.Sleep(day)
		w.sweep()
		w.over("cannot see how all storage is encrypted")

		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "config:SelectResourceConfig" })
		recorded.Remove("AWS::EC2::Volume", "vol-plain")
		time.Sleep(day)
		w.sweep()
		if a := w.one(); !strings.Contains(a.Facts[0].Values[0], "config:SelectResourceConfig") {
			t.Fatalf("alert:\n%s", a.Text())
		}
		all := w.records()
		if got := all[len(all)-1].Totals; got.Unread == 0 || got.UnreadOf[0].What != "how storage is encrypted" {
			t.Errorf("the record of the sweep: %+v", got)
		}
		for range 3 {
			time.Sleep(day)
			w.sweep()
		}
		w.none() // that it is encrypted now was not seen
		w.aws.SetIdentityPolicy(keeperKey, nil)
		time.Sleep(day)
		w.sweep()
		w.none()
		time.Sleep(day)
		w.sweep()
		if more := w.told.take(); len(more) != 2 || more[0].Resolves == "" || more[1].Resolves == "" {
			t.Errorf("told:\n%s", texts(more))
		}
	})
}

// TestStorageAtTheFirstMeeting: it is told with everything else, and not by itself.
func TestStorageAtTheFirstMeeting(t *testing.T) {
	inWorld(t, checking(), func(w *world) {
		w.unmet()
		w.recordsStorage().Put(volume("vol-plain", false, "", "web"), volume("vol-also", false, "", "web"))
		w.sweep()
		if a := w.one(); a.Kind != alert.KindPosture || !strings.Contains(a.Text(), "Storage is not encrypted: EBS volume (2)") {
			t.Fatalf("alert:\n%s", a.Text())
		}
		time.Sleep(25 * time.Hour)
		w.sweep()
		w.none()
	})
}

// TestStorageIsNotAskedFor: without CMKEEPER_CONFIG_CHECKS AWS Config is not asked, and tags
// cannot be matched.
func TestStorageIsNotAskedFor(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		w.recordsStorage().Put(volume("vol-plain", false, "", "web"))
		w.sweepAll(2)
		w.none()
		if n := w.aws.Requests("config", "SelectResourceConfig") + w.aws.Requests("config", "DescribeConfigurationRecorders"); n > 0 {
			t.Errorf("%d requests to AWS Config", n)
		}
	})
	c := enforceAll()
	c.MatchTags = []string{"owner"}
	if _, err := handlers.New(reaction.Deps{}, c); err == nil || !strings.Contains(err.Error(), "CMKEEPER_CONFIG_CHECKS") {
		t.Errorf("the error is %v", err)
	}
}
