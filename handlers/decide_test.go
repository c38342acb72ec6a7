package handlers

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// noon is when the events of these tables happened.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return noon.Add(d) }

func TestDecideRotation(t *testing.T) {
	seen := ledger.Rotation{Seen: true, Period: 180}
	tests := []struct {
		name string
		in   rotationInput
		want rotationReason
		// period is checked where rotation is to be turned on.
		period int
	}{
		{name: "on", in: rotationInput{on: true}, want: rotationOn},
		{name: "off, never seen on", in: rotationInput{}, want: rotationNotRequired},
		{name: "off, never seen on, required", in: rotationInput{required: true}, want: rotationRequired, period: 365},
		{name: "off, seen on", in: rotationInput{facts: seen}, want: rotationRestore, period: 180},
		{name: "off, seen on, required", in: rotationInput{facts: seen, required: true}, want: rotationRestore, period: 180},
		{name: "off, period never seen", in: rotationInput{facts: ledger.Rotation{Seen: true}}, want: rotationRestore, period: 365},
		{name: "poisoned period", in: rotationInput{facts: ledger.Rotation{Seen: true, Period: 2560}}, want: rotationRestore, period: 365},
		{name: "blocked", in: rotationInput{facts: seen, blocker: inventory.BlockedImported}, want: rotationBlocked},
		{name: "event says off, fresh, live on", in: rotationInput{on: true, harm: true}, want: rotationSettling},
		{name: "event says off, old, live on", in: rotationInput{on: true, harm: true, now: after(2 * time.Minute)}, want: rotationOn},
		{name: "event from the future, live on", in: rotationInput{on: true, harm: true, at: after(time.Hour)}, want: rotationOn},
		{name: "on since our own repair for it", in: rotationInput{on: true, mine: true}, want: rotationRepaired},
		{name: "on since a repair for another", in: rotationInput{on: true, harm: true, since: true}, want: rotationRepaired},
		{name: "on, and the event did not turn it off", in: rotationInput{on: true, since: true}, want: rotationOn},
		{name: "period made longer", in: rotationInput{on: true, lengthen: true, livePeriod: 730, facts: ledger.Rotation{Seen: true, Period: 730}}, want: rotationShorten, period: 365},
		{name: "period made longer by the event, fresh, live not", in: rotationInput{on: true, lengthen: true, livePeriod: 180, facts: seen}, want: rotationSettling},
		{name: "period made longer by the event, old, live not", in: rotationInput{on: true, lengthen: true, livePeriod: 180, facts: seen, now: after(2 * time.Minute)}, want: rotationOn},
		{name: "period set back by our own repair", in: rotationInput{on: true, lengthen: true, livePeriod: 365, facts: seen, mine: true}, want: rotationRepaired},
		{name: "period long, but not by the event", in: rotationInput{on: true, livePeriod: 730, facts: seen}, want: rotationOn},
		{name: "period longer than it was, but allowed", in: rotationInput{on: true, longer: true, livePeriod: 300, facts: seen}, want: rotationLonger},
		{name: "period longer than it was, and set back", in: rotationInput{on: true, longer: true, lengthen: true, livePeriod: 365, facts: seen, mine: true}, want: rotationRepaired},
		{name: "period made longer, then turned off", in: rotationInput{lengthen: true, facts: seen}, want: rotationRestore, period: 180},
		{name: "period made longer too often", in: rotationInput{on: true, lengthen: true, livePeriod: 730, facts: seen, breaker: ledger.BreakerOpening}, want: rotationFlapping},
		{name: "off, seen on, exempt", in: rotationInput{facts: seen, exempt: true}, want: rotationExempt},
		{name: "off, never seen on, exempt", in: rotationInput{exempt: true}, want: rotationNotRequired},
		{name: "off, required, exempt", in: rotationInput{required: true, exempt: true}, want: rotationExempt},
		{name: "period made longer, exempt", in: rotationInput{on: true, lengthen: true, livePeriod: 730, facts: seen, exempt: true}, want: rotationExempt},
		{name: "on, exempt", in: rotationInput{on: true, exempt: true}, want: rotationOn},
		{name: "off, seen on, too often", in: rotationInput{facts: seen, breaker: ledger.BreakerOpening}, want: rotationFlapping},
		{name: "off, seen on, left to a fight", in: rotationInput{facts: seen, breaker: ledger.BreakerOpen}, want: rotationFlapping},
		{name: "off, never seen on, too often", in: rotationInput{breaker: ledger.BreakerOpening}, want: rotationNotRequired},
		{name: "on, while a fight is on", in: rotationInput{on: true, breaker: ledger.BreakerOpen}, want: rotationOn},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.in.at.IsZero() {
				tt.in.at = noon
			}
			if tt.in.now.IsZero() {
				tt.in.now = after(30 * time.Second)
			}
			tt.in.period = 365
			got := decideRotation(tt.in)
			if got.reason != tt.want {
				t.Errorf("reason %q, want %q", got.reason, tt.want)
			}
			if tt.period != 0 && got.period != tt.period {
				t.Errorf("period %d, want %d", got.period, tt.period)
			}
			if waits := got.reason == rotationSettling; waits != (got.wait > 0) {
				t.Errorf("%q waits %v", got.reason, got.wait)
			}
		})
	}
}

// states makes a history of "State@offset" words.
func states(words ...string) []ledger.State {
	var all []ledger.State
	for _, w := range words {
		name, offset, _ := strings.Cut(w, "@")
		d, err := time.ParseDuration(offset)
		if err != nil {
			panic(err)
		}
		all = append(all, ledger.State{State: name, At: after(d)})
	}
	return all
}

func TestDecideDeletion(t *testing.T) {
	accepted := states("Enabled@-1h", "PendingDeletion@-30m")
	accepted[1].Accepted = true
	tests := []struct {
		name string
		in   deletionInput
		want deletionDecision
	}{
		{
			name: "pending, was enabled",
			in:   deletionInput{state: ledger.StatePendingDeletion, history: states("Enabled@-1h", "PendingDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: ledger.StateEnabled},
		},
		{
			name: "pending, was disabled",
			in:   deletionInput{state: ledger.StatePendingDeletion, history: states("Enabled@-2h", "Disabled@-1h", "PendingDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true, former: ledger.StateDisabled},
		},
		{
			name: "pending, never seen before",
			in:   deletionInput{state: ledger.StatePendingDeletion, history: states("PendingDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true},
		},
		{
			name: "pending, primary with replicas",
			in:   deletionInput{state: ledger.StatePendingReplicaDeletion, history: states("Enabled@-1h", "PendingReplicaDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: ledger.StateEnabled},
		},
		{
			name: "pending, and disabled just before",
			in:   deletionInput{state: ledger.StatePendingDeletion, history: states("Enabled@-1h", "Disabled@500ms", "PendingDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: ledger.StateEnabled},
		},
		{
			name: "pending, first seen enabled in the event's own second",
			in:   deletionInput{state: ledger.StatePendingDeletion, history: states("Enabled@200ms", "PendingDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: ledger.StateEnabled},
		},
		{
			name: "disabled by the event",
			in:   deletionInput{event: "DisableKey", state: ledger.StateDisabled, history: states("Enabled@-1h", "Disabled@0s")},
			want: deletionDecision{reason: deletionEnable, enable: true, former: ledger.StateEnabled},
		},
		{
			name: "disabled again",
			in:   deletionInput{event: "DisableKey", state: ledger.StateDisabled, history: states("Enabled@-2h", "Disabled@-1h")},
			want: deletionDecision{reason: deletionWasDisabled, former: ledger.StateDisabled},
		},
		{
			name: "disabled, never seen before",
			in:   deletionInput{event: "DisableKey", state: ledger.StateDisabled, history: states("Disabled@5s")},
			want: deletionDecision{reason: deletionUnknown},
		},
		{
			name: "cancelled by us, not yet enabled",
			in:   deletionInput{state: ledger.StateDisabled, history: states("Enabled@-1h", "PendingDeletion@5s", "Disabled@6s"), restore: &ledger.Restore{}},
			want: deletionDecision{reason: deletionRestore, enable: true, former: ledger.StateEnabled},
		},
		{
			name: "cancelled by somebody else",
			in:   deletionInput{state: ledger.StateDisabled, history: states("Enabled@-1h", "Disabled@5s"), now: after(2 * time.Minute)},
			want: deletionDecision{reason: deletionUndone, former: ledger.StateEnabled},
		},
		{
			name: "nothing to see, fresh",
			in:   deletionInput{state: ledger.StateEnabled, history: states("Enabled@-1h")},
			want: deletionDecision{reason: deletionSettling, former: ledger.StateEnabled, wait: 30 * time.Second},
		},
		{
			name: "nothing to see, because we repaired it",
			in:   deletionInput{state: ledger.StateEnabled, history: states("Enabled@-1h"), repaired: true},
			want: deletionDecision{reason: deletionUndone, former: ledger.StateEnabled},
		},
		{
			name: "material deleted",
			in:   deletionInput{event: "DeleteImportedKeyMaterial", state: ledger.StatePendingImport, history: states("Enabled@-1h", "PendingImport@5s")},
			want: deletionDecision{reason: deletionMaterial, former: ledger.StateEnabled},
		},
		{
			name: "material deleted and imported again",
			in:   deletionInput{event: "DeleteImportedKeyMaterial", state: ledger.StateEnabled, history: states("Enabled@-1h"), now: after(time.Hour)},
			want: deletionDecision{reason: deletionUndone, former: ledger.StateEnabled},
		},
		{
			name: "seen in observe mode",
			in:   deletionInput{state: ledger.StatePendingDeletion, history: accepted},
			want: deletionDecision{reason: deletionAccepted, former: ledger.StateEnabled},
		},
		{
			name: "seen in observe mode, begun to be restored before",
			in:   deletionInput{state: ledger.StatePendingDeletion, history: accepted, restore: &ledger.Restore{}},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: ledger.StateEnabled},
		},
		{
			name: "sweep: pending, was enabled",
			in:   deletionInput{sweep: true, state: ledger.StatePendingDeletion, history: states("Enabled@-1h", "PendingDeletion@-1m")},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: ledger.StateEnabled},
		},
		{
			name: "sweep: pending when first seen",
			in:   deletionInput{sweep: true, state: ledger.StatePendingDeletion, history: states("PendingDeletion@-1m")},
			want: deletionDecision{reason: deletionFirstSeen},
		},
		{
			name: "pending, approved",
			in:   deletionInput{state: ledger.StatePendingDeletion, history: states("Enabled@-1h", "PendingDeletion@5s"), approved: true},
			want: deletionDecision{reason: deletionApproved, former: ledger.StateEnabled},
		},
		{
			name: "sweep: pending, approved",
			in:   deletionInput{sweep: true, state: ledger.StatePendingDeletion, history: states("Enabled@-1h", "PendingDeletion@-1m"), approved: true},
			want: deletionDecision{reason: deletionApproved, former: ledger.StateEnabled},
		},
		{
			name: "pending, exempt",
			in:   deletionInput{state: ledger.StatePendingDeletion, history: states("Enabled@-1h", "PendingDeletion@5s"), exempt: true},
			want: deletionDecision{reason: deletionExempt, former: ledger.StateEnabled},
		},
		{
			name: "cancelled by us, not yet enabled, exempt since",
			in:   deletionInput{state: ledger.StateDisabled, history: states("Enabled@-1h", "PendingDeletion@5s", "Disabled@6s"), restore: &ledger.Restore{}, exempt: true},
			want: deletionDecision{reason: deletionRestore, enable: true, former: ledger.StateEnabled},
		},
		{
			name: "disabled again, exempt",
			in:   deletionInput{event: "DisableKey", state: ledger.StateDisabled, history: states("Enabled@-2h", "Disabled@-1h"), exempt: true},
			want: deletionDecision{reason: deletionWasDisabled, former: ledger.StateDisabled},
		},
		{
			name: "sweep: disabled, was enabled",
			in:   deletionInput{sweep: true, state: ledger.StateDisabled, history: states("Enabled@-1h", "Disabled@-1m")},
			want: deletionDecision{reason: deletionEnable, enable: true, former: ledger.StateEnabled},
		},
		{
			name: "sweep: disabled when first seen",
			in:   deletionInput{sweep: true, state: ledger.StateDisabled, history: states("Disabled@-1m")},
			want: deletionDecision{reason: deletionUnknown},
		},
		{
			name: "sweep: disabled after a deletion was cancelled, and before",
			in:   deletionInput{sweep: true, state: ledger.StateDisabled, history: states("Disabled@-2h", "PendingDeletion@-1h", "Disabled@-1m")},
			want: deletionDecision{reason: deletionWasDisabled, former: ledger.StateDisabled},
		},
		{
			name: "disabled, as approved",
			in:   deletionInput{event: "DisableKey", state: ledger.StateDisabled, history: states("Enabled@-1h", "Disabled@5s"), approved: true},
			want: deletionDecision{reason: deletionApproved, former: ledger.StateEnabled},
		},
		{
			name: "sweep: disabled, as approved",
			in:   deletionInput{sweep: true, state: ledger.StateDisabled, history: states("Enabled@-1h", "Disabled@-1m"), approved: true},
			want: deletionDecision{reason: deletionApproved, former: ledger.StateEnabled},
		},
		{
			name: "disabled by us, and approved",
			in:   deletionInput{event: "DisableKey", state: ledger.StateDisabled, history: states("Enabled@-1h", "Disabled@5s"), approved: true, contained: true},
			want: deletionDecision{reason: deletionContained, former: ledger.StateDisabled},
		},
		{
			name: "enabled again, as approved before",
			in:   deletionInput{event: "DisableKey", state: ledger.StateEnabled, history: states("Enabled@-1h"), approved: true, now: after(time.Hour)},
			want: deletionDecision{reason: deletionUndone, former: ledger.StateEnabled},
		},
		{
			name: "pending, too often",
			in:   deletionInput{state: ledger.StatePendingDeletion, history: states("Enabled@-1h", "PendingDeletion@5s"), breaker: ledger.BreakerOpening},
			want: deletionDecision{reason: deletionFlapping, former: ledger.StateEnabled},
		},
		{
			name: "pending again before it was enabled, too often",
			in:   deletionInput{state: ledger.StatePendingDeletion, history: states("Enabled@-1h", "PendingDeletion@5s"), restore: &ledger.Restore{}, breaker: ledger.BreakerOpen},
			want: deletionDecision{reason: deletionFlapping, former: ledger.StateEnabled},
		},
		{
			name: "disabled again, while a fight is on",
			in:   deletionInput{event: "DisableKey", state: ledger.StateDisabled, history: states("Enabled@-2h", "Disabled@-1h"), breaker: ledger.BreakerOpen},
			want: deletionDecision{reason: deletionWasDisabled, former: ledger.StateDisabled},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.in.event == "" {
				tt.in.event = "ScheduleKeyDeletion"
			}
			if tt.in.now.IsZero() {
				tt.in.now = after(30 * time.Second)
			}
			tt.in.at, tt.in.enforce = noon, true
			if got := decideDeletion(tt.in); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestDecideOrigin(t *testing.T) {
	us := reaction.Identity{Account: "444455556666", Name: "cmkeeper", Role: true}
	session := events.Actor{Type: "AssumedRole", AccountID: us.Account, Name: "cmkeeper", Session: "task-1", RoleARN: "arn:aws:iam::444455556666:role/service/cmkeeper"}
	foreign := session
	foreign.AccountID = "777788889999"
	namesake := events.Actor{Type: "IAMUser", AccountID: us.Account, Name: "cmkeeper"}
	known := []ledger.Call{{Operation: reaction.EnableKeyRotation, At: noon, RequestIDs: []string{"r-1", "r-2"}, Known: true}}
	open := []ledger.Call{{Operation: reaction.EnableKeyRotation, At: noon}}
	tests := []struct {
		name    string
		actor   events.Actor
		op, id  string
		at      time.Time
		calls   []ledger.Call
		observe bool
		want    origin
	}{
		{name: "somebody else", actor: namesake, op: reaction.EnableKeyRotation, id: "r-1", calls: known, want: byOthers},
		{name: "our role's name in another account", actor: foreign, op: reaction.EnableKeyRotation, id: "r-1", calls: known, want: byOthers},
		{name: "our call", actor: session, op: reaction.EnableKeyRotation, id: "r-1", calls: known, want: byEcho},
		{name: "another attempt of our call", actor: session, op: reaction.EnableKeyRotation, id: "r-2", calls: known, want: byEcho},
		{name: "another request", actor: session, op: reaction.EnableKeyRotation, id: "r-3", calls: known, want: byImpostor},
		{name: "another operation", actor: session, op: reaction.EnableKey, id: "r-1", calls: known, want: byImpostor},
		{name: "an operation that we never call", actor: session, op: "DeleteAlias", id: "r-1", calls: known, want: byImpostor},
		{name: "an operation that this mode never calls", actor: session, op: reaction.EnableKeyRotation, id: "r-3", calls: open, observe: true, want: byImpostor},
		{name: "our call, made in another mode", actor: session, op: reaction.EnableKeyRotation, id: "r-1", calls: known, observe: true, want: byEcho},
		{name: "no call at all", actor: session, op: reaction.EnableKeyRotation, id: "r-1", want: byImpostor},
		{name: "intent, answer unknown", actor: session, op: reaction.EnableKeyRotation, id: "r-9", calls: open, at: after(time.Minute), want: byEcho},
		{name: "intent, long ago", actor: session, op: reaction.EnableKeyRotation, id: "r-9", calls: open, at: after(time.Hour), want: byImpostor},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := reaction.Config{Identity: us, Rotation: reaction.Enforce, Deletion: reaction.Enforce}
			if tt.observe {
				c.Rotation = reaction.Observe
			}
			e := events.Event{Name: tt.op, RequestID: tt.id, Time: tt.at, Actor: tt.actor}
			if e.Time.IsZero() {
				e.Time = noon
			}
			if got := decideOrigin(e, c, tt.calls); got != tt.want {
				t.Errorf("origin %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDecideAlias(t *testing.T) {
	live := func(key string, updated time.Duration) inventory.Alias {
		return inventory.Alias{TargetKeyARN: key, Updated: after(updated)}
	}
	tests := []struct {
		name string
		in   aliasInput
		want aliasReason
	}{
		{name: "live agrees", in: aliasInput{target: "B", exists: true, live: live("B", 0)}, want: aliasAgrees},
		{name: "live is older", in: aliasInput{target: "B", exists: true, live: live("A", -time.Hour)}, want: aliasWait},
		{name: "live is older for too long", in: aliasInput{target: "B", exists: true, live: live("A", -time.Hour), now: after(time.Hour)}, want: aliasOlder},
		{name: "live is newer", in: aliasInput{target: "B", exists: true, live: live("C", 10*time.Second)}, want: aliasOlder},
		{name: "live changed within the same second", in: aliasInput{target: "B", exists: true, live: live("C", 300*time.Millisecond)}, want: aliasWait},
		{name: "live changed within the same second, settled", in: aliasInput{target: "B", exists: true, live: live("C", 300*time.Millisecond), now: after(2 * time.Minute)}, want: aliasOlder},
		{name: "something newer is known", in: aliasInput{target: "B", exists: true, live: inventory.Alias{TargetKeyARN: "A"}, known: true, newest: ledger.Target{KeyARN: "C", Since: after(time.Second)}}, want: aliasOlder},
		{name: "no time, nothing known", in: aliasInput{target: "B", exists: true, live: inventory.Alias{TargetKeyARN: "A"}}, want: aliasWait},
		{name: "not there yet", in: aliasInput{target: "B"}, want: aliasWait},
		{name: "not there any more", in: aliasInput{target: "B", known: true, newest: ledger.Target{Deleted: true, Since: after(time.Second)}}, want: aliasOlder},
		{name: "deleted", in: aliasInput{deleted: true, target: "A"}, want: aliasAgrees},
		{name: "deleted, still shown", in: aliasInput{deleted: true, target: "A", exists: true, live: live("A", -time.Hour)}, want: aliasWait},
		{name: "deleted and made again", in: aliasInput{deleted: true, target: "A", exists: true, live: live("B", 10*time.Second)}, want: aliasOlder},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.at = noon
			if tt.in.now.IsZero() {
				tt.in.now = after(20 * time.Second)
			}
			if got := decideAlias(tt.in); got != tt.want {
				t.Errorf("reason %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDecideMove(t *testing.T) {
	good := func() moveInput {
		return moveInput{
			listed: true, from: []string{"A"},
			key: inventory.Key{
				State: ledger.StateEnabled, Manager: managerCustomer, Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT",
				Origin: "AWS_KMS", Account: "444455556666", Region: "eu-central-1",
			},
			findings: []finding.Finding{{Severity: finding.Medium}},
			scope:    []reencrypt.Scope{{Bucket: "b"}},
			account:  "444455556666", region: "eu-central-1",
		}
	}
	tests := []struct {
		name   string
		change func(*moveInput)
		want   []moveReason
	}{
		{"good", func(*moveInput) {}, nil},
		{"not listed", func(in *moveInput) { in.listed = false }, []moveReason{moveNotListed}},
		{"disabled", func(in *moveInput) { in.key.State = ledger.StateDisabled }, []moveReason{moveKeyState}},
		{"AWS managed", func(in *moveInput) { in.key.Manager = "AWS" }, []moveReason{moveManager}},
		{"RSA", func(in *moveInput) { in.key.Spec = "RSA_2048" }, []moveReason{moveNotForS3}},
		{"imported", func(in *moveInput) { in.key.Origin = "EXTERNAL" }, []moveReason{moveOrigin}},
		{"other account", func(in *moveInput) { in.key.Account = "777788889999" }, []moveReason{moveElsewhere}},
		{"other Region", func(in *moveInput) { in.key.Region = "us-east-1" }, []moveReason{moveElsewhere}},
		{"high finding", func(in *moveInput) { in.findings = []finding.Finding{{Severity: finding.High}} }, []moveReason{movePolicy}},
		{"old key unknown", func(in *moveInput) { in.from = nil }, []moveReason{moveFromUnknown}},
		{"may not be read", func(in *moveInput) { in.unreadable, in.key = true, inventory.Key{} }, []moveReason{moveUnreadable}},
		{"no scope", func(in *moveInput) { in.scope = nil }, []moveReason{moveNoScope}},
		{"by a rotation", func(in *moveInput) { in.rotation = true }, []moveReason{moveByRotation}},
		{"by a rotation, which needs no configuration", func(in *moveInput) { in.rotation, in.listed, in.scope = true, false, nil }, []moveReason{moveByRotation}},
		{"by a rotation, to an open key", func(in *moveInput) { in.rotation, in.findings = true, []finding.Finding{{Severity: finding.High}} }, []moveReason{moveByRotation, movePolicy}},
		{"several", func(in *moveInput) { in.listed, in.key.Origin = false, "EXTERNAL" }, []moveReason{moveNotListed, moveOrigin}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := good()
			tt.change(&in)
			got := decideMove(in)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("reasons (-want +got):\n%s", diff)
			}
			for _, reason := range got {
				if moveText[reason] == "" {
					t.Errorf("reason %q has no text", reason)
				}
			}
		})
	}
}

func TestDecidePolicy(t *testing.T) {
	high := []finding.Finding{{Severity: finding.Low}, {Severity: finding.High}}
	tests := []struct {
		name     string
		in       policyInput
		want     policyReason
		severity finding.Severity
	}{
		{"put, with findings", policyInput{put: true, known: true, findings: high}, policyFindings, finding.High},
		{"put, changed", policyInput{put: true, known: true, changes: 1}, policyChanged, finding.Info},
		{"put, the same", policyInput{put: true, known: true}, policyUnremarkable, finding.Info},
		{"put, nothing to compare with", policyInput{put: true}, policyChanged, finding.Info},
		{"new key, with findings", policyInput{findings: high}, policyFindings, finding.High},
		{"new key", policyInput{}, policyUnremarkable, finding.Info},
		{"sweep, first seen, with findings", policyInput{sweep: true, findings: high}, policyBaseline, finding.High},
		{"sweep, the same, with findings", policyInput{sweep: true, known: true, findings: high}, policyUnremarkable, finding.High},
		{"sweep, changed", policyInput{sweep: true, known: true, changes: 2}, policyChanged, finding.Info},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, severity := decidePolicy(tt.in); got != tt.want || severity != tt.severity {
				t.Errorf("got %q, %q; want %q, %q", got, severity, tt.want, tt.severity)
			}
		})
	}
}

func TestDecideRefused(t *testing.T) {
	for _, tt := range []struct {
		name     string
		in       refusedInput
		want     refusedReason
		severity finding.Severity
	}{
		{"a dangerous call", refusedInput{severity: finding.High, concerned: true}, refusedAttempt, finding.High},
		{"a harmless call", refusedInput{concerned: true}, refusedHarmless, ""},
		{"another account's key", refusedInput{severity: finding.High}, refusedForeign, ""},
		{"our own repair", refusedInput{severity: finding.High, concerned: true, ours: true, made: true}, refusedOurs, ""},
		{"our role, not our call", refusedInput{severity: finding.Medium, concerned: true, ours: true}, refusedImpostor, finding.Critical},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, severity := decideRefused(tt.in); got != tt.want || severity != tt.severity {
				t.Errorf("%q (%s), want %q (%s)", got, severity, tt.want, tt.severity)
			}
		})
	}
}

func TestIsDenied(t *testing.T) {
	for code, want := range map[string]bool{
		"AccessDenied": true, "AccessDeniedException": true, "Client.UnauthorizedOperation": true, "AuthorizationError": true,
		"": false, "ThrottlingException": false, "NotFoundException": false, "KMSInvalidStateException": false,
	} {
		if isDenied(code) != want {
			t.Errorf("isDenied(%q) = %v", code, !want)
		}
	}
}

func TestDecideUse(t *testing.T) {
	for state, want := range map[string]finding.Severity{
		ledger.StateEnabled: "", ledger.StateDisabled: finding.Medium, ledger.StatePendingDeletion: finding.High, ledger.StatePendingReplicaDeletion: finding.High,
		ledger.StatePendingImport: finding.Medium, "Unavailable": finding.Medium, "": finding.Medium,
	} {
		if reason, severity := decideUse(state); severity != want {
			t.Errorf("decideUse(%q) = %s, %s; want %s", state, reason, severity, want)
		}
	}
}
