package cli

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// TestBatchOperationsMoveABucket lets S3 Batch Operations do an alias's move. That
// it is over within the test's patience shows that their event came: polling takes
// five minutes.
func TestBatchOperationsMoveABucket(t *testing.T) {
	const objects = 300
	a := newAccount(t)
	a.enter()
	newKey := a.newKey("")
	a.newKey(appAlias)
	a.fill("app-data", appAlias, objects)
	a.start("REENCRYPT_ENGINE", "batch", "BATCH_ROLE_ARN", "arn:aws:iam::"+sandbox.Account+":role/batch")
	a.moveAlias(appAlias, newKey)
	done := a.await("the job is complete", tells(alert.KindReencryption, newKey, alert.StatusDone))
	if want := fmt.Sprintf("%d scanned, %d moved, 0 refused, 0 failed", objects, objects); !strings.Contains(done.Summary, want) {
		t.Errorf("want %q in %q", want, done.Summary)
	}
	facts := slices.IndexFunc(done.Facts, func(f alert.Fact) bool { return f.Name == "jobs of S3 Batch Operations" })
	if facts < 0 || !strings.Contains(strings.Join(done.Facts[facts].Values, "\n"), fmt.Sprintf("Complete, %d of %d tasks succeeded and 0 failed", objects, objects)) {
		t.Errorf("facts: %+v", done.Facts)
	}
	a.expectUnder("app-data", newKey, objects)
	if n := a.box.AWS.Requests("s3", "UpdateObjectEncryption"); n != 1 {
		t.Errorf("the fleet has sent UpdateObjectEncryption %d times, want only the probe's", n)
	}
	a.expectNoDeadLetters()
	job := done.Facts[slices.IndexFunc(done.Facts, func(f alert.Fact) bool { return f.Name == "job" })].Values[0]
	if out := a.ok("status", job); strings.Count(out, "S3 Batch job") != 2 {
		t.Errorf("status: %s", out)
	}
}
