package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// alerts runs "cmkeeper alerts" with the fleet's settings, but for the given ones.
func (a *account) alerts(args ...string) (code int, stdout, stderr string) {
	a.t.Helper()
	var out, errs bytes.Buffer
	environ := []string{"CMKEEPER_STATE_BUCKET=" + sandbox.StateBucket, "CMKEEPER_ALERT_TOPIC_ARN=" + a.box.Topic}
	code = a.run(append([]string{"alerts"}, args...), environ, &out, &errs)
	return code, out.String(), errs.String()
}

func TestAlertsTest(t *testing.T) {
	a := newAccount(t)
	a.enter()
	examples := len(must(readExamples())(t))
	code, out, errs := a.alerts("test", "--kind", "incident")
	if code != exitOK || !strings.HasPrefix(out, "sent: [CRITICAL] TEST, nothing happened: Incident: ") {
		t.Fatalf("exit code %d: %s%s", code, out, errs)
	}
	for range 2 { // each run sends them
		if code, out, errs = a.alerts("test"); code != exitOK || strings.Count(out, "\n") != examples {
			t.Fatalf("exit code %d: %s%s", code, out, errs)
		}
	}
	a.eventually("all arrive", func() bool {
		a.collect()
		return len(a.inbox) == 1+2*examples
	})
	for _, got := range a.inbox {
		if !strings.HasPrefix(got.Title, "TEST, nothing happened: ") || !strings.HasPrefix(got.Summary, "This is a test that arn:aws:") {
			t.Errorf("%s does not say that it is a test: %s", got.Kind, got.Text())
		}
	}
	if code, out, errs = a.alerts("test", "--kind", "sport"); code != exitUsage || !strings.Contains(errs, "rotation, policy, deletion") {
		t.Errorf("an unknown kind: exit code %d: %s%s", code, out, errs)
	}
}

func TestAlertsResend(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		a.enter()
		list := func(want string, args ...string) {
			t.Helper()
			if code, out, errs := a.alerts(append([]string{"list"}, args...)...); code != exitOK || !strings.Contains(out, want) {
				t.Errorf("exit code %d, not %q: %s%s", code, want, out, errs)
			}
		}
		list("Every alert was sent.")

		a.box.AWS.SetFaults(localaws.Fault{Service: "sns", Operations: []string{"Publish"}, Effect: localaws.FailBefore})
		if code, out, errs := a.alerts("test", "--kind", "deletion"); code != exitError || !strings.Contains(errs, "publish alert to "+a.box.Topic) {
			t.Fatalf("exit code %d: %s%s", code, out, errs)
		}
		list("undelivered since ")
		list(`"id":"test/`, "--json", "--undelivered")
		if code, out, errs := a.alerts("resend", "--all"); code != exitError || out != "" || !strings.Contains(errs, "publish alert to ") {
			t.Errorf("exit code %d: %s%s", code, out, errs)
		}
		a.box.AWS.SetFaults()

		for _, args := range [][]string{{"resend"}, {"resend", "x", "--all"}} {
			if code, out, errs := a.alerts(args...); code != exitUsage || !strings.Contains(errs, "--all") {
				t.Errorf("%q: exit code %d: %s%s", args, code, out, errs)
			}
		}
		if code, out, errs := a.alerts("resend", "no-such-id"); code != exitError || !strings.Contains(errs, `"no-such-id" is not an undelivered one`) {
			t.Errorf("exit code %d: %s%s", code, out, errs)
		}
		bucket, key := aws.String(sandbox.StateBucket), aws.String("cmkeeper/alerts/undelivered/garbled.json")
		must(a.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: bucket, Key: key, Body: strings.NewReader("{")}))(t)
		if code, out, errs := a.alerts("list"); code != exitError || !strings.Contains(out, "undelivered since ") || !strings.Contains(errs, "garbled.json") {
			t.Errorf("beside one that cannot be read: exit code %d: %s%s", code, out, errs)
		}
		must(a.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: bucket, Key: key}))(t)
		_, out, _ := a.alerts("list", "--json")
		id := decodeJSON[waitingAlerts](t, out).Undelivered[0].Alert.ID
		if code, out, errs := a.alerts("resend", id); code != exitOK || !strings.HasPrefix(out, "sent: TEST") {
			t.Errorf("exit code %d: %s%s", code, out, errs)
		}
		list("Every alert was sent.")
		a.eventually("it arrives", func() bool { a.collect(); return len(a.inbox) == 1 })
	})
}

// TestAlertsListShowsWhatIsCollected has a member of the fleet collect an alert.
func TestAlertsListShowsWhatIsCollected(t *testing.T) {
	a := newAccount(t)
	a.enter()
	m := a.start("ALERT_GROUP_INTERVAL", "10m", "ALERT_GROUP_WAIT", "10m")
	first, second, third := a.newRotatingKey(), a.newRotatingKey(), a.newRotatingKey()
	a.eventually("the keys are known", func() bool {
		_, out, _ := a.alerts("list")
		return strings.Contains(out, "alerts of arn:aws:iam::"+sandbox.Account+":user/"+operator) && len(m.log.lines("alert collected")) == 6
	})
	a.disableRotation(first)
	a.await("the first is told at once", tells(alert.KindRotation, first, alert.StatusDone))
	// An actor who is only claimed has a group of his own: where the sender of the messages
	// becomes known just now, the next alert is the first one of its group, too.
	told := 1
	isCollected := func() bool {
		_, out, _ := a.alerts("list")
		return strings.Contains(out, " alerts of arn:aws:iam::"+sandbox.Account+":user/"+operator) && len(m.log.lines("alert collected")) == 7
	}
	a.disableRotation(second)
	a.eventually("the second is collected, or told", func() bool {
		a.collect()
		return isCollected() || slices.ContainsFunc(a.inbox, tells(alert.KindRotation, second, alert.StatusDone))
	})
	if !isCollected() {
		told++
		a.disableRotation(third)
		a.eventually("the third is collected", isCollected)
	}
	if len(a.inbox) != told {
		t.Errorf("told at once:\n%s", titles(a.inbox))
	}
}

func TestAlertsNeedTheFleetsSettings(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"alerts", "list"}, nil, &out, &errs); code != exitUsage || !strings.Contains(errs.String(), "STATE_BUCKET is not set") || !strings.Contains(errs.String(), "ALERT_TOPIC_ARN is not set") {
		t.Errorf("exit code %d: %s%s", code, out.String(), errs.String())
	}
}
