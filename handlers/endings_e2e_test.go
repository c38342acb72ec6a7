package handlers_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
)

// TestManyEndings: whoever cancels many deletions that people were told of makes three
// messages at most, which resolve all of them and are no incident.
func TestManyEndings(t *testing.T) {
	keys := soaking(420, 150)
	c := observing()
	c.Posture.RotationRequired = false
	inStormOf(t, c, func(s *storm) {
		ctx, stop := context.WithCancel(s.ctx)
		for range 3 {
			s.start(ctx)
		}
		var all []string
		for range keys {
			all = append(all, s.newKey(kms.CreateKeyInput{}))
		}
		time.Sleep(3 * time.Minute)
		for _, key := range all {
			s.scheduleDeletion(key)
		}
		time.Sleep(5 * time.Minute)
		told := map[string]string{} // ids by key
		for _, a := range s.arrived() {
			for _, c := range callsOf(a.Alert) {
				told[c.Key] = c.ID
			}
		}
		for _, key := range all {
			if told[key] == "" {
				t.Fatalf("the deletion of %s was not told", key)
			}
		}
		for _, key := range all {
			must(s.kms.CancelKeyDeletion(s.ctx, &kms.CancelKeyDeletionInput{KeyId: &key}))
		}
		time.Sleep(10 * time.Minute)
		stop()
		s.wg.Wait()
		got := s.arrived()
		t.Logf("the messages:\n%s", titlesOf(got))
		if len(got) == 0 || len(got) > 3 {
			t.Errorf("%d messages, want 1 to 3", len(got))
		}
		resolved := map[string]string{}
		for _, a := range got {
			if a.Kind == alert.KindIncident || a.Severity != finding.Info || a.Action.Status != alert.StatusResolved || !strings.HasPrefix(a.Title, "Resolved: ") {
				t.Errorf("alert:\n%.2000s", a.Text())
			}
			for _, c := range callsOf(a.Alert) {
				if resolved[c.Key] != "" {
					t.Errorf("%s is told to be over twice", c.Key)
				}
				resolved[c.Key] = c.Resolves
			}
		}
		for _, key := range all {
			if resolved[key] != told[key] {
				t.Errorf("%s: %q is resolved, told was %q", key, resolved[key], told[key])
			}
		}
	})
}

// callsOf are the alerts in an alert.
func callsOf(a alert.Alert) []alert.Call {
	if a.Digest != nil {
		return a.Digest.Calls
	}
	return []alert.Call{{ID: a.ID, Key: a.Key.ARN, Resolves: a.Resolves}}
}

// TestManyDangers: the first sweep over an account that is full of bad keys tells all of
// them in three messages at most, the worst first, and the second one nothing.
func TestManyDangers(t *testing.T) {
	keys := soaking(10_000, 300)
	inStormOf(t, observing(), func(s *storm) {
		s.unmet()
		bad := map[string]bool{}
		for range keys {
			bad[*must(s.kms.CreateKey(s.ctx, &kms.CreateKeyInput{Policy: aws.String(public)})).KeyMetadata.Arn] = true
		}
		healthy := s.newKey(kms.CreateKeyInput{})
		s.enableRotation(healthy, 365)
		s.purge() // nobody was there
		ctx, stop := context.WithCancel(s.ctx)
		for range 3 {
			s.start(ctx)
		}
		s.send(tick(0))
		time.Sleep(15 * time.Minute)
		got := s.arrived()
		if len(got) == 0 || len(got) > 3 {
			t.Errorf("%d messages, want 1 to 3:\n%s", len(got), titlesOf(got))
		}
		named := map[string]bool{}
		for _, a := range got {
			if a.Kind != alert.KindPosture || a.Severity != finding.Critical {
				t.Errorf("alert:\n%.2000s", a.Text())
			}
			for _, c := range callsOf(a.Alert) {
				if named[c.Key] = true; c.Do == "" {
					t.Errorf("%s: nothing says what to do", c.Key)
				}
			}
		}
		for key := range bad {
			if !named[key] {
				t.Fatalf("%s is not named; %d are", key, len(named))
			}
		}
		if named[healthy] {
			t.Error("the healthy key is named")
		}
		s.send(tick(1))
		time.Sleep(15 * time.Minute)
		stop()
		s.wg.Wait()
		if got := s.arrived(); len(got) > 0 {
			t.Errorf("the second sweep told:\n%s", titlesOf(got))
		}
	})
}

// purge throws away what has arrived in the events queue.
func (s *storm) purge() {
	s.t.Helper()
	for len(s.events()) > 0 {
	}
	s.seen = nil
}
