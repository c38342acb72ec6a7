package handlers

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
)

func TestDecideContain(t *testing.T) {
	mine := &containment{By: "e-1", At: noon}
	done := &repair{At: noon, Done: true}
	begun := &repair{At: noon}
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
		{name: "disabled", in: containInput{opened: true, state: stateDisabled}, want: containUnusable},
		{name: "to be deleted", in: containInput{opened: true, state: statePending}, want: containUnusable},
		{name: "disabled for it before", in: containInput{opened: true, state: stateDisabled, contained: mine, mine: done}, want: containDone},
		{name: "disabled for it, and closed since", in: containInput{state: stateDisabled, contained: mine, mine: done}, want: containDone},
		{name: "disabled for another event", in: containInput{opened: true, state: stateDisabled, contained: &containment{By: "e-0"}}, want: containUnusable},
		{name: "begun and not done", in: containInput{opened: true, contained: mine, mine: begun, now: after(2 * time.Minute)}, want: containNow},
		{name: "done, and not seen yet", in: containInput{opened: true, contained: mine, mine: done}, want: containNow},
		{name: "done, and enabled again", in: containInput{opened: true, contained: mine, mine: done, now: after(2 * time.Minute)}, want: containUndone},
		{name: "by who may", in: containInput{opened: true, allowed: true}, want: containAllowed},
		{name: "exempt", in: containInput{opened: true, exempt: true}, want: containExempt},
		{name: "enabled by another one", in: containInput{opened: true, enabled: true}, want: containEnabled},
		{name: "enabled by who opened it", in: containInput{opened: true, enabled: true, same: true}, want: containNow},
		{name: "too often", in: containInput{opened: true, enabled: true, same: true, fight: fightOpens}, want: containFlapping},
		{name: "in use", in: containInput{opened: true, use: keyUse{why: []string{"used"}, unknown: []string{"grants"}}}, want: containInUse},
		{name: "not known whether it is", in: containInput{opened: true, use: keyUse{unknown: []string{"grants"}}}, want: containUnknown},
		{name: "in use, and by who may", in: containInput{opened: true, allowed: true, use: keyUse{why: []string{"used"}}}, want: containAllowed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.by = "e-1"
			if tt.in.state == "" {
				tt.in.state = stateEnabled
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
		return exposure{Finding: alert.Finding{ID: finding.PublicPrincipal, Principal: principal}}
	}
	var doc keyDoc
	doc.noteExposures([]exposure{x("a"), x("a")}, noon)
	doc.noteExposures([]exposure{x("a"), x("b")}, after(time.Minute))
	doc.noteExposures(nil, after(time.Second)) // an older read
	want := []seenExposure{{"public-principal a", noon}, {"public-principal b", after(time.Minute)}}
	if diff := cmp.Diff(want, doc.Exposures); diff != "" {
		t.Errorf("exposures (-want +got):\n%s", diff)
	}
	grant := func(user string) exposure {
		return exposure{grant: user, Finding: alert.Finding{ID: finding.GrantToForeignAccount, Principal: "arn:aws:iam::999988887777:user/" + user}}
	}
	if grant("a").name() != grant("b").name() {
		t.Error("two grants to one account count as two ways in")
	}
	if !doc.exposedBefore(x("a"), after(time.Second)) || doc.exposedBefore(x("a"), noon) || doc.exposedBefore(x("c"), after(time.Hour)) {
		t.Error("since when it was open is not known")
	}
	doc.noteExposures([]exposure{x("b")}, after(time.Hour))
	doc.noteExposures([]exposure{x("a"), x("b")}, after(2*time.Hour))
	if doc.exposedBefore(x("a"), after(2*time.Hour)) {
		t.Error("what was closed meanwhile counts from before")
	}
}

func TestGrantExposure(t *testing.T) {
	r := &Router{config: Config{Identity: Identity{Account: "444455556666"}, TrustedAccounts: []string{"111122223333"}}}
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
		if _, got := r.grantExposure(inventory.Grant{ID: "g", Grantee: grantee, Operations: []string{"Decrypt"}}); got != want {
			t.Errorf("%q: %t, want %t", grantee, got, want)
		}
	}
	if _, got := r.grantExposure(inventory.Grant{ID: "g", Grantee: "arn:aws:iam::999988887777:root", Operations: []string{"DescribeKey", "GetPublicKey", "RetireGrant"}}); got {
		t.Error("a grant that lets its grantee only look is an exposure")
	}
}

// TestContainedKeyStaysDisabled: the deletion reaction and the sweep leave a key
// disabled that we disabled ourselves.
func TestContainedKeyStaysDisabled(t *testing.T) {
	enabled := []seenState{{State: stateEnabled, At: after(-time.Hour)}}
	for name, tt := range map[string]struct {
		in   deletionInput
		want deletionDecision
	}{
		"seen by a sweep":                        {deletionInput{sweep: true, state: stateDisabled, history: append(enabled, seenState{State: stateDisabled, At: noon})}, deletionDecision{reason: deletionContained, former: stateDisabled}},
		"disabled by somebody else, too":         {deletionInput{event: "DisableKey", state: stateDisabled, history: enabled}, deletionDecision{reason: deletionContained, former: stateDisabled}},
		"its deletion is scheduled then":         {deletionInput{event: "ScheduleKeyDeletion", state: statePending, history: append(enabled, seenState{State: stateDisabled, At: after(-time.Minute)})}, deletionDecision{reason: deletionCancel, cancel: true, former: stateDisabled}},
		"and nobody had seen it disabled":        {deletionInput{event: "ScheduleKeyDeletion", state: statePending, history: enabled}, deletionDecision{reason: deletionCancel, cancel: true, former: stateDisabled}},
		"and its enabling had been begun before": {deletionInput{event: "ScheduleKeyDeletion", state: statePending, history: enabled, restore: &restore{}}, deletionDecision{reason: deletionCancel, cancel: true, former: stateDisabled}},
	} {
		tt.in.contained, tt.in.enforce, tt.in.at, tt.in.now = true, true, noon, after(time.Second)
		if got := decideDeletion(tt.in); got != tt.want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, tt.want)
		}
	}
}

func TestOpened(t *testing.T) {
	r := &Router{config: Config{Identity: Identity{Account: "444455556666"}}}
	open := []exposure{{Finding: alert.Finding{ID: finding.GrantToForeignAccount, Principal: "999988887777"}, grant: "g-1"}}
	enable := events.Event{Name: opEnableKey, Time: noon}
	created := events.Event{Name: "CreateGrant", Time: noon, Detail: events.CreateGrant{GrantID: "g-2", GranteePrincipal: "arn:aws:iam::999988887777:root", Operations: []string{"Decrypt"}}}
	for name, tt := range map[string]struct {
		e       events.Event
		doc     keyDoc
		opened  int
		pending bool
	}{
		"enabled, and never contained":    {e: enable},
		"enabled after it was contained":  {e: enable, doc: keyDoc{Contained: &containment{At: after(-time.Minute)}}, opened: 1},
		"enabled after that, and seen so": {e: enable, doc: keyDoc{Contained: &containment{At: after(-time.Minute), Over: after(time.Second)}}, opened: 1},
		"enabled before it was contained": {e: enable, doc: keyDoc{Contained: &containment{At: after(time.Minute)}}},
		"enabled once more, long after":   {e: enable, doc: keyDoc{Contained: &containment{At: after(-time.Hour), Over: after(-time.Minute)}}},
		"a grant that is not listed yet":  {e: created, pending: true},
		"an event that can open nothing":  {e: events.Event{Name: "TagResource", Time: noon}},
	} {
		opened, pending := r.opened(tt.e, tt.doc, open)
		if len(opened) != tt.opened || pending != tt.pending {
			t.Errorf("%s: opened %d, pending %t", name, len(opened), pending)
		}
	}
}
