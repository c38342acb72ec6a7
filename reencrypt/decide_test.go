package reencrypt

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const (
	oldKey   = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-00000000000a"
	newKey   = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-00000000000b"
	otherKey = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-00000000000c"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	byUpdate := rules{from: []string{oldKey}, to: newKey, method: updateMethod{}, maxCopy: 5 << 30, now: now}
	byCopy := byUpdate
	byCopy.method = copyMethod{}
	lockedCopies := byCopy
	lockedCopies.defaultLock = true
	base := object{latest: true, size: 100, encryption: "aws:kms", keyARN: oldKey}

	for name, c := range map[string]struct {
		change func(*object)
		update decision
		copy   decision
	}{
		"under an old key":         {func(*object) {}, decision{action: update}, decision{action: copyWhole}},
		"delete marker":            {func(o *object) { *o = object{deleteMarker: true} }, decision{skip, ReasonDeleteMarker}, decision{skip, ReasonDeleteMarker}},
		"not encrypted":            {func(o *object) { o.encryption, o.keyARN = "", "" }, decision{skip, ReasonNotEncrypted}, decision{skip, ReasonNotEncrypted}},
		"SSE-S3":                   {func(o *object) { o.encryption, o.keyARN = "AES256", "" }, decision{skip, ReasonSSES3}, decision{skip, ReasonSSES3}},
		"on the new key":           {func(o *object) { o.keyARN = newKey }, decision{skip, ReasonOnTarget}, decision{skip, ReasonOnTarget}},
		"on the new key, locked":   {func(o *object) { o.keyARN, o.held = newKey, true }, decision{skip, ReasonOnTarget}, decision{skip, ReasonOnTarget}},
		"on another key":           {func(o *object) { o.keyARN = otherKey }, decision{skip, ReasonOtherKey}, decision{skip, ReasonOtherKey}},
		"on another key, archived": {func(o *object) { o.keyARN, o.storageClass = otherKey, "GLACIER" }, decision{skip, ReasonOtherKey}, decision{skip, ReasonOtherKey}},
		"on a key nobody knows":    {func(o *object) { o.keyARN = "" }, decision{refuse, ReasonUnknownKey}, decision{refuse, ReasonUnknownKey}},
		"DSSE under an old key":    {func(o *object) { o.encryption = "aws:kms:dsse" }, decision{refuse, ReasonDSSE}, decision{refuse, ReasonDSSE}},
		"DSSE under another key":   {func(o *object) { o.encryption, o.keyARN = "aws:kms:dsse", otherKey }, decision{skip, ReasonOtherKey}, decision{skip, ReasonOtherKey}},
		"retained":                 {func(o *object) { o.retention, o.retainUntil = true, now.Add(time.Hour) }, decision{refuse, ReasonObjectLock}, decision{refuse, ReasonObjectLock}},
		"retention is over":        {func(o *object) { o.retention, o.retainUntil = true, now.Add(-time.Hour) }, decision{action: update}, decision{refuse, ReasonObjectLock}},
		"on hold":                  {func(o *object) { o.held = true }, decision{refuse, ReasonObjectLock}, decision{refuse, ReasonObjectLock}},
		"noncurrent":               {func(o *object) { o.latest = false }, decision{action: update}, decision{refuse, ReasonNoncurrent}},
		"GLACIER":                  {func(o *object) { o.storageClass = "GLACIER" }, decision{action: update}, decision{refuse, ReasonArchived}},
		"DEEP_ARCHIVE, on its way": {func(o *object) { o.storageClass, o.restore = "DEEP_ARCHIVE", `ongoing-request="true"` }, decision{action: update}, decision{refuse, ReasonArchived}},
		"GLACIER, restored":        {func(o *object) { o.storageClass, o.restore = "GLACIER", `ongoing-request="false", expiry-date="x"` }, decision{action: update}, decision{refuse, ReasonRestored}},
		"Intelligent archive tier": {func(o *object) { o.storageClass, o.archived = "INTELLIGENT_TIERING", true }, decision{action: update}, decision{refuse, ReasonArchived}},
		"Intelligent, frequent":    {func(o *object) { o.storageClass = "INTELLIGENT_TIERING" }, decision{action: update}, decision{action: copyWhole}},
		"GLACIER_IR":               {func(o *object) { o.storageClass = "GLACIER_IR" }, decision{action: update}, decision{action: copyWhole}},
		"class nobody can ask for": {func(o *object) { o.storageClass = "SNOW" }, decision{action: update}, decision{refuse, ReasonStorageClass}},
		"ACL that cannot be kept":  {func(o *object) { o.acl = aclOdd }, decision{action: update}, decision{refuse, ReasonACL}},
		"owned by somebody else":   {func(o *object) { o.acl = aclForeign }, decision{action: update}, decision{refuse, ReasonForeignOwner}},
		"hidden metadata, small":   {func(o *object) { o.hiddenMetadata = true }, decision{action: update}, decision{action: copyWhole}},
		"exactly 5 GiB":            {func(o *object) { o.size = 5 << 30 }, decision{action: update}, decision{action: copyWhole}},
		"beyond 5 GiB":             {func(o *object) { o.size = 5<<30 + 1 }, decision{action: update}, decision{action: copyParts}},
		"large, hidden metadata":   {func(o *object) { o.size, o.hiddenMetadata = 6<<30, true }, decision{action: update}, decision{refuse, ReasonMetadata}},
		"large, annotated":         {func(o *object) { o.size, o.annotated = 6<<30, true }, decision{action: update}, decision{refuse, ReasonAnnotations}},
		"too many parts":           {func(o *object) { o.size = maxObjectSize + 1 }, decision{action: update}, decision{refuse, ReasonTooLarge}},
	} {
		t.Run(name, func(t *testing.T) {
			o := base
			c.change(&o)
			if got := decide(o, byUpdate); got != c.update {
				t.Errorf("by update: %v, want %v", got, c.update)
			}
			if got := decide(o, byCopy); got != c.copy {
				t.Errorf("by copy: %v, want %v", got, c.copy)
			}
			want := c.copy
			if want.action == copyWhole || want.action == copyParts {
				want = decision{refuse, ReasonObjectLock}
			}
			if got := decide(o, lockedCopies); got.action != want.action {
				t.Errorf("by copy into a bucket with a default retention: %v, want %v", got, want)
			}
		})
	}
}

func TestPartSize(t *testing.T) {
	for _, c := range []struct{ size, wished, want int64 }{
		{6 << 30, 512 << 20, 512 << 20},
		{10_000 * 512 << 20, 512 << 20, 512 << 20},
		{10_000*512<<20 + 1, 512 << 20, 512<<20 + 1},
		{maxObjectSize, 512 << 20, 5 << 30},
	} {
		if got := partSize(c.size, c.wished); got != c.want || (c.size+got-1)/got > 10_000 {
			t.Errorf("partSize(%d, %d) = %d, want %d", c.size, c.wished, got, c.want)
		}
	}
}

// TestReasonsAreDocumented: the tables of docs/reencryption.md have each reason, in the one
// that says whether it needs something, and each finding of a preflight; and no others.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/reencryption.md")
	if err != nil {
		t.Fatal(err)
	}
	// first is what stands in the first cells of a section's tables, by the header of the table.
	first := func(section string) map[string][]string {
		_, text, _ := strings.Cut(string(page), "\n## "+section+"\n")
		text, _, _ = strings.Cut(text, "\n## ")
		all, header := map[string][]string{}, ""
		for line := range strings.Lines(text) {
			cell, table := strings.CutPrefix(line, "|")
			cell, _, _ = strings.Cut(cell, "|")
			switch names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1); {
			case !table:
				header = ""
			case header == "":
				header = strings.TrimSpace(cell)
			default:
				for _, name := range names {
					all[header] = append(all[header], name[1])
				}
			}
		}
		return all
	}
	want := map[string][]string{}
	for _, value := range declared(t, "Reason") {
		r := Reason(value)
		result := "refused"
		switch {
		case r == ReasonBatchTask:
			continue // no version's own: see the section on S3 Batch Operations
		case r.Skips():
			result = "skipped"
		case r == ReasonChanging, r == ReasonError, r == ReasonDiffers:
			result = "failed"
		}
		want[result] = append(want[result], value)
	}
	sorted := cmpopts.SortSlices(strings.Compare)
	if d := cmp.Diff(want, first("Reasons"), sorted); d != "" {
		t.Errorf("the reasons (-code +page):\n%s", d)
	}
	source, err := os.ReadFile("preflight.go")
	if err != nil {
		t.Fatal(err)
	}
	var findings []string
	for _, name := range regexp.MustCompile(`(?m)^\tfinding\w+\s+= "(.+)"`).FindAllStringSubmatch(string(source), -1) {
		if name[1] != findingDefaultMoved { // in the row of bucket-default
			findings = append(findings, name[1])
		}
	}
	if d := cmp.Diff(findings, first("Before it: plan and preflight")["finding"], sorted); d != "" {
		t.Errorf("the findings of a preflight (-code +page):\n%s", d)
	}
}
