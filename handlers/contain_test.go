package handlers

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/posture"
)

func TestDecideContain(t *testing.T) {
	mine := &ledger.Containment{By: "e-1", At: noon}
	done := &ledger.Repair{At: noon, Done: true}
	begun := &ledger.Repair{At: noon}
	tests := []struct {
		name string
		in   containInput
		want containReason
	}{
		{name: "opened", in: containInput{opened: true}, want: containNow},
		{name: "not opened", in: containInput{}, want: containNothing},
		{name: "not seen to be open yet", in: containInput{pending: true}, want: containSettling},
		{name: "closed again", in: containInput{pending: true, now: after(2 * time.Minute)}, want: containNothing},
		{name: "the event is from the future", in: containInput{pending: true, at: after(time.Hour)}, want: containNothing},
		{name: "disabled", in: containInput{opened: true, state: ledger.StateDisabled}, want: containUnusable},
		{name: "to be deleted", in: containInput{opened: true, state: ledger.StatePendingDeletion}, want: containUnusable},
		{name: "disabled for it before", in: containInput{opened: true, state: ledger.StateDisabled, contained: mine, mine: done}, want: containDone},
		{name: "disabled for it, and closed since", in: containInput{state: ledger.StateDisabled, contained: mine, mine: done}, want: containDone},
		{name: "disabled for another event", in: containInput{opened: true, state: ledger.StateDisabled, contained: &ledger.Containment{By: "e-0"}}, want: containUnusable},
		{name: "begun and not done", in: containInput{opened: true, contained: mine, mine: begun, now: after(2 * time.Minute)}, want: containNow},
		{name: "done, and not seen yet", in: containInput{opened: true, contained: mine, mine: done}, want: containNow},
		{name: "done, and enabled again", in: containInput{opened: true, contained: mine, mine: done, now: after(2 * time.Minute)}, want: containUndone},
		{name: "by who may", in: containInput{opened: true, allowed: true}, want: containAllowed},
		{name: "exempt", in: containInput{opened: true, exempt: true}, want: containExempt},
		{name: "enabled by another one", in: containInput{opened: true, enabled: true}, want: containEnabled},
		{name: "enabled by who opened it", in: containInput{opened: true, enabled: true, same: true}, want: containNow},
		{name: "too often", in: containInput{opened: true, enabled: true, same: true, breaker: ledger.BreakerOpening}, want: containFlapping},
		{name: "in use", in: containInput{opened: true, use: keyUse{why: []string{"used"}, unknown: []string{"grants"}}}, want: containInUse},
		{name: "not known whether it is", in: containInput{opened: true, use: keyUse{unknown: []string{"grants"}}}, want: containUnknown},
		{name: "in use, and by who may", in: containInput{opened: true, allowed: true, use: keyUse{why: []string{"used"}}}, want: containAllowed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.by = "e-1"
			if tt.in.state == "" {
				tt.in.state = ledger.StateEnabled
			}
			if tt.in.at.IsZero() {
				tt.in.at = noon
			}
			if tt.in.now.IsZero() {
				tt.in.now = after(20 * time.Second)
			}
			if got := decideContain(tt.in); got != tt.want {
				t.Errorf("reason %q, want %q", got, tt.want)
			}
		})
	}
}

func TestNoteExposures(t *testing.T) {
	x := func(principal string) exposure {
		return exposure{Finding: finding.Finding{ID: finding.PublicPrincipal, Principal: principal}}
	}
	var doc ledger.Key
	note := func(at time.Time, open ...exposure) { doc.NoteExposures(names(open), at) }
	before := func(x exposure, t time.Time) bool { return doc.ExposedBefore(x.name(), t) }
	note(noon, x("a"), x("a"))
	note(after(time.Minute), x("a"), x("b"))
	note(after(time.Second)) // an older read
	want := []ledger.Exposure{{Name: "public-principal a", Since: noon}, {Name: "public-principal b", Since: after(time.Minute)}}
	if diff := cmp.Diff(want, doc.Exposures); diff != "" {
		t.Errorf("exposures (-want +got):\n%s", diff)
	}
	grant := func(user string) exposure {
		return exposure{grant: user, Finding: finding.Finding{ID: finding.GrantToForeignAccount, Principal: "arn:aws:iam::999988887777:user/" + user}}
	}
	if grant("a").name() != grant("b").name() {
		t.Error("two grants to one account count as two ways in")
	}
	if !before(x("a"), after(time.Second)) || before(x("a"), noon) || before(x("c"), after(time.Hour)) {
		t.Error("since when it was open is not known")
	}
	note(after(time.Hour), x("b"))
	note(after(2*time.Hour), x("a"), x("b"))
	if before(x("a"), after(2*time.Hour)) {
		t.Error("what was closed meanwhile counts from before")
	}
}

func TestGrantExposure(t *testing.T) {
	c := caseOf(t, events.Event{}, "111122223333")
	for grantee, want := range map[string]bool{
		"arn:aws:iam::999988887777:role/reader":           true,
		"arn:aws:iam::999988887777:root":                  true,
		"arn:aws:sts::999988887777:assumed-role/reader/s": true,
		"arn:aws:iam::444455556666:role/reader":           false,
		"arn:aws:iam::111122223333:role/reader":           false,
		"rds.amazonaws.com":                               false,
		"AROAEXAMPLE":                                     false, // whoever it was is deleted
		"":                                                false,
	} {
		if _, got := grantExposure(c, inventory.Grant{ID: "g", Grantee: grantee, Operations: []string{"Decrypt"}}); got != want {
			t.Errorf("%q: %t, want %t", grantee, got, want)
		}
	}
	if _, got := grantExposure(c, inventory.Grant{ID: "g", Grantee: "arn:aws:iam::999988887777:root", Operations: []string{"DescribeKey", "GetPublicKey", "RetireGrant"}}); got {
		t.Error("a grant that lets its grantee only look is an exposure")
	}
}

// TestContainedKeyStaysDisabled: the deletion reaction and the sweep leave a key
// disabled that we disabled ourselves.
func TestContainedKeyStaysDisabled(t *testing.T) {
	enabled := []ledger.State{{State: ledger.StateEnabled, At: after(-time.Hour)}}
	for name, tt := range map[string]struct {
		in   deletionInput
		want deletionDecision
	}{
		"seen by a sweep":                        {deletionInput{sweep: true, state: ledger.StateDisabled, history: append(enabled, ledger.State{State: ledger.StateDisabled, At: noon})}, deletionDecision{reason: deletionContained, former: ledger.StateDisabled}},
		"disabled by somebody else, too":         {deletionInput{event: "DisableKey", state: ledger.StateDisabled, history: enabled}, deletionDecision{reason: deletionContained, former: ledger.StateDisabled}},
		"its deletion is scheduled then":         {deletionInput{event: "ScheduleKeyDeletion", state: ledger.StatePendingDeletion, history: append(enabled, ledger.State{State: ledger.StateDisabled, At: after(-time.Minute)})}, deletionDecision{reason: deletionCancel, cancel: true, former: ledger.StateDisabled}},
		"and nobody had seen it disabled":        {deletionInput{event: "ScheduleKeyDeletion", state: ledger.StatePendingDeletion, history: enabled}, deletionDecision{reason: deletionCancel, cancel: true, former: ledger.StateDisabled}},
		"and its enabling had been begun before": {deletionInput{event: "ScheduleKeyDeletion", state: ledger.StatePendingDeletion, history: enabled, restore: &ledger.Restore{}}, deletionDecision{reason: deletionCancel, cancel: true, former: ledger.StateDisabled}},
	} {
		tt.in.contained, tt.in.enforce, tt.in.at, tt.in.now = true, true, noon, after(time.Second)
		if got := decideDeletion(tt.in); got != tt.want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, tt.want)
		}
	}
}

func TestOpened(t *testing.T) {
	open := []exposure{{Finding: finding.Finding{ID: finding.GrantToForeignAccount, Principal: "999988887777"}, grant: "g-1"}}
	enable := events.Event{Name: reaction.EnableKey, Time: noon}
	created := events.Event{Name: "CreateGrant", Time: noon, Detail: events.CreateGrant{GrantID: "g-2", GranteePrincipal: "arn:aws:iam::999988887777:root", Operations: []string{"Decrypt"}}}
	for name, tt := range map[string]struct {
		e       events.Event
		doc     ledger.Key
		opened  int
		pending bool
	}{
		"enabled, and never contained":    {e: enable},
		"enabled after it was contained":  {e: enable, doc: ledger.Key{Contained: &ledger.Containment{At: after(-time.Minute)}}, opened: 1},
		"enabled after that, and seen so": {e: enable, doc: ledger.Key{Contained: &ledger.Containment{At: after(-time.Minute), Over: after(time.Second)}}, opened: 1},
		"enabled before it was contained": {e: enable, doc: ledger.Key{Contained: &ledger.Containment{At: after(time.Minute)}}},
		"enabled once more, long after":   {e: enable, doc: ledger.Key{Contained: &ledger.Containment{At: after(-time.Hour), Over: after(-time.Minute)}}},
		"a grant that is not listed yet":  {e: created, pending: true},
		"an event that can open nothing":  {e: events.Event{Name: "TagResource", Time: noon}},
	} {
		opened, pending := opened(caseOf(t, tt.e), &tt.doc, open)
		if len(opened) != tt.opened || pending != tt.pending {
			t.Errorf("%s: opened %d, pending %t", name, len(opened), pending)
		}
	}
}

// caseOf is the case of an event in an account that trusts others.
func caseOf(t *testing.T, e events.Event, trusted ...string) *reaction.Case {
	t.Helper()
	env, err := reaction.NewEnv(reaction.Deps{}, reaction.Config{
		Identity: reaction.Identity{Account: "444455556666", Name: "cmkeeper", Role: true}, Region: "eu-central-1", Posture: posture.Rules{TrustedAccounts: trusted},
	})
	if err != nil {
		t.Fatal(err)
	}
	return env.NewCase(e)
}
