package keyreport

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/state"
)

// TestAccess: the report has the last review with its time, by key what it found and the
// worst of that, and names the keys that were not reviewed.
func TestAccess(t *testing.T) {
	store, put := newState(t)
	write := func(key string, doc state.Document) {
		t.Helper()
		if _, err := store.Put(t.Context(), key, doc, ""); err != nil {
			t.Fatal(err)
		}
	}
	fresh := func(k *keylist.Key) { k.Created = made }
	foreign := func(k *keylist.Key) { k.Manager, k.Created = "AWS", made }
	list := listOf(key(1, nil), key(2, nil), key(3, fresh), key(4, nil), key(5, foreign))
	said := func() (Access, string) {
		t.Helper()
		r := makeOf(list, ReadHistory(t.Context(), store, nil))
		_, seen, _ := page(t, r)
		return r.History.Access, seen
	}

	if a, seen := said(); !strings.Contains(a.NotKnown, "no access review has ended") || len(a.NotReviewed) > 0 || !strings.Contains(seen, "No key was reviewed.") {
		t.Errorf("without a review: %+v", a)
	}
	at := made.Add(-time.Hour)
	write(ledger.AccessReviewName, &ledger.AccessReview{At: at, AccessReviewed: ledger.AccessReviewed{
		Keys: 2, Unreviewed: []string{list.Keys[3].ID, "gone"}, More: 7, Policies: []ledger.AccessPolicy{{Severity: finding.Medium, Message: "Policy all is about every key"}}, PoliciesOf: 9,
	}})
	for i, open := range [][]ledger.Open{
		{{Name: "self-grant", Severity: finding.High, Count: 3, Since: at}},
		{{Name: "assumable-from-outside", Severity: finding.Critical, Count: 1, Since: at}, {Name: "tag-grant", Severity: finding.High, Count: 2, Since: at, Gone: at}},
	} {
		write(ledger.AccessName(list.Keys[i].ARN), &ledger.Access{Key: list.Keys[i].ARN, Standing: ledger.Standing{At: at, Open: open}})
	}
	const gone = "arn:aws:kms:eu-central-1:" + account + ":key/gone"
	write(ledger.AccessName(gone), &ledger.Access{Key: gone, Standing: ledger.Standing{At: at, Open: []ledger.Open{{Name: "self-grant", Severity: finding.High, Since: at}}}})
	want := Access{
		At: at, Keys: 2, NotNamed: 7, NotReviewed: []string{list.Keys[2].ID, list.Keys[3].ID}, PoliciesOf: 9, Policies: []AccessPolicy{{finding.Medium, "Policy all is about every key"}},
		Found: []*AccessFound{
			{Key: list.Keys[1].ARN, Kind: "assumable-from-outside", Count: 1, Worst: finding.Critical, Since: at},
			{Key: list.Keys[0].ARN, Kind: "self-grant", Count: 3, Worst: finding.High, Since: at},
		},
	}
	a, seen := said()
	if diff := cmp.Diff(want, a, cmpopts.IgnoreUnexported(Access{})); diff != "" {
		t.Error(diff)
	}
	for _, words := range []string{"read the account's IAM at " + stamp(at), "assumable-from-outside", "not reviewed", "7 more keys could not be read", "IAM policies about every key (9)", "Policy all is about every key"} {
		if !strings.Contains(seen, words) {
			t.Errorf("the page does not say %q", words)
		}
	}
	put(ledger.AccessName("arn:aws:kms:eu-central-1:"+account+":key/broken"), "no JSON")
	if a, seen := said(); a.NotKnown == "" || len(a.Found) != 2 || !strings.Contains(seen, "Not all is known") {
		t.Errorf("with a document that cannot be read: %+v", a)
	}
}
