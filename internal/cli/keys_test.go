package cli

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keylist"
)

// hostile is text that does something to a terminal, a page or a spreadsheet.
const hostile = "=cmd|' /C calc'!A0 \x1b[31m\u202e\u009b2J</script><b>&\"'"

func TestKeysCommand(t *testing.T) {
	a := newAccount(t)
	a.enter()
	dying := a.newKey("alias/payments")
	must(a.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &dying}))(t)
	odd := *must(a.kms.CreateKey(t.Context(), &kms.CreateKeyInput{
		Description: aws.String(hostile), Tags: []types.Tag{{TagKey: aws.String("team"), TagValue: aws.String("=blue")}},
	}))(t).KeyMetadata.Arn
	keys := func(args ...string) string {
		code, out, errs := a.command(append([]string{"keys", "--quota-share", "1"}, args...)...)
		if code != exitOK || errs != "" {
			t.Fatalf("%q: exit code %d: %s", args, code, errs)
		}
		if strings.ContainsAny(out, "\x1b\u202e\u009b") {
			t.Errorf("%q prints what a terminal acts on: %q", args, out)
		}
		return out
	}
	var l keylist.List
	if err := json.Unmarshal([]byte(keys("--json", "--tags")), &l); err != nil {
		t.Fatal(err)
	}
	if k := l.Keys[0]; l.Schema != keylist.Schema || k.ARN != dying || k.Worst != "critical" || l.Totals.Keys != len(l.Keys) {
		t.Errorf("the first is %+v of %+v", k, l.Totals)
	}
	if i := slices.IndexFunc(l.Keys, func(k keylist.Key) bool { return k.ARN == odd }); i < 0 || l.Keys[i].Description != hostile || l.Keys[i].Tags.Values["team"] != "=blue" {
		t.Errorf("the odd key: %+v", l.Keys)
	}

	rows, err := csv.NewReader(strings.NewReader(keys("--csv", "--tag", "team=*"))).ReadAll()
	if err != nil || len(rows) != 2 {
		t.Fatalf("CSV: %v, %q", err, rows)
	}
	cell := func(name string) string { return rows[1][slices.Index(rows[0], name)] }
	if !strings.HasPrefix(cell("description"), `'=cmd|`) || cell("arn") != odd || cell("tags") != "team==blue" || cell("last_use") != keylist.NotAsked {
		t.Errorf("CSV: %q", rows[1])
	}

	text := keys()
	for _, want := range []string{"WORST", "critical", "alias/payments", "PendingDeletion", "- critical: The key will be deleted on ", " keys of account "} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "Not known") {
		t.Errorf("something is not known:\n%s", text)
	}
	details := keys("alias/payments", odd)
	for _, want := range []string{dying + "\n", "state             PendingDeletion, to be deleted at ", "last use          none since ", `description       =cmd|' /C calc'!A0 \x1b[31m\u202e\u009b2J</script><b>&"'`, "rotation          cannot: pending-deletion"} {
		if !strings.Contains(details, want) {
			t.Errorf("%q is not in:\n%s", want, details)
		}
	}

	// The last uses that were read are recorded, and other lists show them with their date.
	var listed keylist.List
	if err := json.Unmarshal([]byte(keys("--json")), &listed); err != nil {
		t.Fatal(err)
	}
	for _, k := range listed.Keys {
		if named := k.ARN == dying || k.ARN == odd; named != (k.LastUse.Record != nil) || k.LastUse.Known() {
			t.Errorf("last use of %s: %+v", k.ARN, k.LastUse)
		}
	}
	var wide strings.Builder
	if err := printKeys(&wide, listed, 200, keylist.Options{}); err != nil || !strings.Contains(wide.String(), "UNUSED") || strings.Count(wide.String(), ">0d*") != 2 || strings.Contains(wide.String(), "BK OFF") {
		t.Errorf("%v, of last uses:\n%s", err, wide.String())
	}
	a.deny(administrator, "s3:PutObject")
	if code, out, errs := a.command("keys", odd); code != exitOK || !strings.HasPrefix(errs, "The last uses were not recorded: ") || !strings.Contains(out, "none since ") {
		t.Errorf("exit code %d, %q: %q", code, errs, out)
	}
	a.deny(administrator, "kms:ListGrants", "s3:GetEncryptionConfiguration")
	if text := keys("--bad"); !strings.Contains(text, "Not known: grants of ") || !strings.Contains(text, "Not known: buckets: ") || !strings.Contains(text, odd[len(odd)-36:]) {
		t.Errorf("without permission for grants and buckets:\n%s", text)
	}
}

func TestKeysUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--json", "--csv"}, {"--unused", "soon"}, {"--unused", "-3d"}, {"--tag", "team"}, {"--alias", "app"}, {"--quota-share", "0"}, {"--quota-share", "1.1"},
	} {
		var out, errs strings.Builder
		if code := run(t.Context(), append([]string{"keys"}, args...), nil, &out, &errs); code != exitUsage {
			t.Errorf("%q: exit code %d: %s", args, code, errs.String())
		}
	}
}

// TestKeysColumns shows for how long keys were not used, and buckets without bucket keys,
// in lines of 80 characters.
func TestKeysColumns(t *testing.T) {
	read := keylist.Read{At: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)}
	used, days := read.At.Add(-45*24*time.Hour), 45
	key := func(alias string, use keylist.LastUse, off ...string) keylist.Key {
		return keylist.Key{Aliases: []string{alias}, State: "Enabled", Judged: true, Manager: "CUSTOMER", Described: read, Spec: "SYMMETRIC_DEFAULT", Origin: "AWS_KMS",
			LastUse: use, Buckets: keylist.Buckets{Read: read, Names: off, BucketKeysOff: off}}
	}
	l := keylist.List{Account: "111122223333", Region: "eu-central-1", BucketKeys: keylist.BucketKeys{Off: 2, USDPerMillion: 3, NotKnown: "nobody counts"}, Keys: []keylist.Key{
		key("alias/used", keylist.LastUse{Read: read, Used: &used, UnusedDays: &days}, "a", "b"),
		key("alias/never", keylist.LastUse{Read: read, Since: used, UnusedDays: &days}),
		key("alias/recorded", keylist.LastUse{Read: keylist.Read{NotKnown: keylist.NotAsked}, Record: &keylist.UseRecord{At: read.At, Used: used}}),
		key("alias/unknown", keylist.LastUse{Read: keylist.Read{NotKnown: "denied"}}),
	}}
	var narrow, wide strings.Builder
	if err := errors.Join(printKeys(&narrow, l, 80, keylist.Options{}), printKeys(&wide, l, 160, keylist.Options{Unused: 1})); err != nil {
		t.Fatal(err)
	}
	for alias, want := range map[string][2]string{
		"alias/used": {" 45d ", " 2 "}, "alias/never": {" >45d ", " - "}, "alias/recorded": {" 45d* ", " - "}, "alias/unknown": {" ? ", " - "},
	} {
		at := strings.Index(wide.String(), alias+" ")
		if at < 0 {
			t.Fatalf("no %s in:\n%s", alias, wide.String())
		}
		if row, _, _ := strings.Cut(wide.String()[at:], "\n"); !strings.Contains(row, want[0]) || !strings.Contains(row, want[1]) {
			t.Errorf("%q is without %q", row, want)
		}
	}
	for _, want := range []string{"BK OFF", "UNUSED", "Bucket keys (BK) are off in 2 buckets", "$3.00 per million"} {
		if !strings.Contains(wide.String(), want) {
			t.Errorf("no %q in:\n%s", want, wide.String())
		}
	}
	for line := range strings.Lines(narrow.String()) {
		if utf8.RuneCountInString(strings.TrimRight(line, "\n")) > 80 {
			t.Errorf("more than 80 characters: %s", line)
		}
	}
	if header, _, _ := strings.Cut(narrow.String(), "\n"); !strings.Contains(header, "UNUSED") {
		t.Errorf("80 characters have no room for what counts:\n%s", narrow.String())
	}
	t.Logf("\n%s", narrow.String())
}

// TestKeysFitATerminal: no line of the table is longer than the terminal, also where names
// are; columns that have no room are named.
func TestKeysFitATerminal(t *testing.T) {
	on := true
	l := keylist.List{Account: "111122223333", Region: "eu-central-1", Keys: []keylist.Key{{
		ID: "1234abcd-12ab-34cd-56ef-1234567890ab", Aliases: []string{"alias/" + strings.Repeat("long-", 30)}, State: "PendingReplicaDeletion",
		Spec: "SYMMETRIC_DEFAULT", Origin: "EXTERNAL_KEY_STORE", MultiRegion: "PRIMARY", Manager: "CUSTOMER", Worst: "critical", Judged: true,
		Rotation: keylist.Rotation{Enabled: &on, PeriodDays: 2560}, Tags: keylist.Tags{Values: map[string]string{strings.Repeat("a b ", 40): "c"}},
	}, {ID: "x", Rotation: keylist.Rotation{Blocker: inventory.BlockedUnavailable}}}}
	for width, left := range map[int]string{200: "", 100: "", 80: "rotation", 70: "rotation"} {
		var b strings.Builder
		if err := printKeys(&b, l, width, keylist.Options{Unused: 1, Tags: true}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
				t.Errorf("%d characters in a line of %d: %s", n, width, line)
			}
		}
		if named := strings.Contains(b.String(), "Not shown for want of room"); left != "" && (!named || !strings.Contains(b.String(), left)) {
			t.Errorf("width %d does not say that %s is left out:\n%s", width, left, b.String())
		}
	}
	if d := cmp.Diff("ab…", cut("abcdef", 3)); d != "" {
		t.Error(d)
	}
}
