package handlers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// noon is when the events of these tables happened.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return noon.Add(d) }

func repairsAt(times ...time.Time) []repair {
	var all []repair
	for _, t := range times {
		all = append(all, repair{At: t})
	}
	return all
}

func TestDecideRotation(t *testing.T) {
	seen := rotationFacts{Seen: true, Period: 180}
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
		{name: "off, period never seen", in: rotationInput{facts: rotationFacts{Seen: true}}, want: rotationRestore, period: 365},
		{name: "poisoned period", in: rotationInput{facts: rotationFacts{Seen: true, Period: 2560}}, want: rotationRestore, period: 365},
		{name: "blocked", in: rotationInput{facts: seen, blocker: inventory.BlockedImported}, want: rotationBlocked},
		{name: "event says off, fresh, live on", in: rotationInput{on: true, harm: true}, want: rotationSettling},
		{name: "event says off, old, live on", in: rotationInput{on: true, harm: true, now: after(2 * time.Minute)}, want: rotationOn},
		{name: "event from the future, live on", in: rotationInput{on: true, harm: true, at: after(time.Hour)}, want: rotationOn},
		{name: "on since our own repair for it", in: rotationInput{on: true, mine: &repair{}}, want: rotationRepaired},
		{name: "on since a repair for another", in: rotationInput{on: true, harm: true, since: repairsAt(noon)}, want: rotationRepaired},
		{name: "on, and the event did not turn it off", in: rotationInput{on: true, since: repairsAt(noon)}, want: rotationOn},
		{name: "period made longer", in: rotationInput{on: true, lengthen: true, livePeriod: 730, facts: rotationFacts{Seen: true, Period: 730}}, want: rotationShorten, period: 365},
		{name: "period made longer by the event, fresh, live not", in: rotationInput{on: true, lengthen: true, livePeriod: 180, facts: seen}, want: rotationSettling},
		{name: "period made longer by the event, old, live not", in: rotationInput{on: true, lengthen: true, livePeriod: 180, facts: seen, now: after(2 * time.Minute)}, want: rotationOn},
		{name: "period set back by our own repair", in: rotationInput{on: true, lengthen: true, livePeriod: 365, facts: seen, mine: &repair{}}, want: rotationRepaired},
		{name: "period long, but not by the event", in: rotationInput{on: true, livePeriod: 730, facts: seen}, want: rotationOn},
		{name: "period made longer, then turned off", in: rotationInput{lengthen: true, facts: seen}, want: rotationRestore, period: 180},
		{name: "period made longer too often", in: rotationInput{on: true, lengthen: true, livePeriod: 730, facts: seen, fight: fightOpens}, want: rotationFlapping},
		{name: "off, seen on, exempt", in: rotationInput{facts: seen, exempt: true}, want: rotationExempt},
		{name: "off, never seen on, exempt", in: rotationInput{exempt: true}, want: rotationNotRequired},
		{name: "off, required, exempt", in: rotationInput{required: true, exempt: true}, want: rotationExempt},
		{name: "period made longer, exempt", in: rotationInput{on: true, lengthen: true, livePeriod: 730, facts: seen, exempt: true}, want: rotationExempt},
		{name: "on, exempt", in: rotationInput{on: true, exempt: true}, want: rotationOn},
		{name: "off, seen on, too often", in: rotationInput{facts: seen, fight: fightOpens}, want: rotationFlapping},
		{name: "off, seen on, left to a fight", in: rotationInput{facts: seen, fight: fightOpen}, want: rotationFlapping},
		{name: "off, never seen on, too often", in: rotationInput{fight: fightOpens}, want: rotationNotRequired},
		{name: "on, while a fight is on", in: rotationInput{on: true, fight: fightOpen}, want: rotationOn},
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
func states(words ...string) []seenState {
	var all []seenState
	for _, w := range words {
		name, offset, _ := strings.Cut(w, "@")
		d, err := time.ParseDuration(offset)
		if err != nil {
			panic(err)
		}
		all = append(all, seenState{State: name, At: after(d)})
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
			in:   deletionInput{state: statePending, history: states("Enabled@-1h", "PendingDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: stateEnabled},
		},
		{
			name: "pending, was disabled",
			in:   deletionInput{state: statePending, history: states("Enabled@-2h", "Disabled@-1h", "PendingDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true, former: stateDisabled},
		},
		{
			name: "pending, never seen before",
			in:   deletionInput{state: statePending, history: states("PendingDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true},
		},
		{
			name: "pending, primary with replicas",
			in:   deletionInput{state: statePendingReplica, history: states("Enabled@-1h", "PendingReplicaDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: stateEnabled},
		},
		{
			name: "pending, and disabled just before",
			in:   deletionInput{state: statePending, history: states("Enabled@-1h", "Disabled@500ms", "PendingDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: stateEnabled},
		},
		{
			name: "pending, first seen enabled in the event's own second",
			in:   deletionInput{state: statePending, history: states("Enabled@200ms", "PendingDeletion@5s")},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: stateEnabled},
		},
		{
			name: "disabled by the event",
			in:   deletionInput{event: "DisableKey", state: stateDisabled, history: states("Enabled@-1h", "Disabled@0s")},
			want: deletionDecision{reason: deletionEnable, enable: true, former: stateEnabled},
		},
		{
			name: "disabled again",
			in:   deletionInput{event: "DisableKey", state: stateDisabled, history: states("Enabled@-2h", "Disabled@-1h")},
			want: deletionDecision{reason: deletionWasDisabled, former: stateDisabled},
		},
		{
			name: "disabled, never seen before",
			in:   deletionInput{event: "DisableKey", state: stateDisabled, history: states("Disabled@5s")},
			want: deletionDecision{reason: deletionUnknown},
		},
		{
			name: "cancelled by us, not yet enabled",
			in:   deletionInput{state: stateDisabled, history: states("Enabled@-1h", "PendingDeletion@5s", "Disabled@6s"), restore: &restore{}},
			want: deletionDecision{reason: deletionRestore, enable: true, former: stateEnabled},
		},
		{
			name: "cancelled by somebody else",
			in:   deletionInput{state: stateDisabled, history: states("Enabled@-1h", "Disabled@5s"), now: after(2 * time.Minute)},
			want: deletionDecision{reason: deletionUndone, former: stateEnabled},
		},
		{
			name: "nothing to see, fresh",
			in:   deletionInput{state: stateEnabled, history: states("Enabled@-1h")},
			want: deletionDecision{reason: deletionSettling, former: stateEnabled, wait: 30 * time.Second},
		},
		{
			name: "nothing to see, because we repaired it",
			in:   deletionInput{state: stateEnabled, history: states("Enabled@-1h"), repaired: true},
			want: deletionDecision{reason: deletionUndone, former: stateEnabled},
		},
		{
			name: "material deleted",
			in:   deletionInput{event: "DeleteImportedKeyMaterial", state: statePendingImport, history: states("Enabled@-1h", "PendingImport@5s")},
			want: deletionDecision{reason: deletionMaterial, former: stateEnabled},
		},
		{
			name: "material deleted and imported again",
			in:   deletionInput{event: "DeleteImportedKeyMaterial", state: stateEnabled, history: states("Enabled@-1h"), now: after(time.Hour)},
			want: deletionDecision{reason: deletionUndone, former: stateEnabled},
		},
		{
			name: "seen in observe mode",
			in:   deletionInput{state: statePending, history: accepted},
			want: deletionDecision{reason: deletionAccepted, former: stateEnabled},
		},
		{
			name: "seen in observe mode, begun to be restored before",
			in:   deletionInput{state: statePending, history: accepted, restore: &restore{}},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: stateEnabled},
		},
		{
			name: "sweep: pending, was enabled",
			in:   deletionInput{sweep: true, state: statePending, history: states("Enabled@-1h", "PendingDeletion@-1m")},
			want: deletionDecision{reason: deletionCancel, cancel: true, enable: true, former: stateEnabled},
		},
		{
			name: "sweep: pending when first seen",
			in:   deletionInput{sweep: true, state: statePending, history: states("PendingDeletion@-1m")},
			want: deletionDecision{reason: deletionFirstSeen},
		},
		{
			name: "pending, approved",
			in:   deletionInput{state: statePending, history: states("Enabled@-1h", "PendingDeletion@5s"), approved: true},
			want: deletionDecision{reason: deletionApproved, former: stateEnabled},
		},
		{
			name: "sweep: pending, approved",
			in:   deletionInput{sweep: true, state: statePending, history: states("Enabled@-1h", "PendingDeletion@-1m"), approved: true},
			want: deletionDecision{reason: deletionApproved, former: stateEnabled},
		},
		{
			name: "disabled: an approval is of a deletion only",
			in:   deletionInput{event: "DisableKey", state: stateDisabled, history: states("Enabled@-1h", "Disabled@5s"), approved: true},
			want: deletionDecision{reason: deletionEnable, enable: true, former: stateEnabled},
		},
		{
			name: "pending, exempt",
			in:   deletionInput{state: statePending, history: states("Enabled@-1h", "PendingDeletion@5s"), exempt: true},
			want: deletionDecision{reason: deletionExempt, former: stateEnabled},
		},
		{
			name: "cancelled by us, not yet enabled, exempt since",
			in:   deletionInput{state: stateDisabled, history: states("Enabled@-1h", "PendingDeletion@5s", "Disabled@6s"), restore: &restore{}, exempt: true},
			want: deletionDecision{reason: deletionRestore, enable: true, former: stateEnabled},
		},
		{
			name: "disabled again, exempt",
			in:   deletionInput{event: "DisableKey", state: stateDisabled, history: states("Enabled@-2h", "Disabled@-1h"), exempt: true},
			want: deletionDecision{reason: deletionWasDisabled, former: stateDisabled},
		},
		{
			name: "sweep: disabled, was enabled",
			in:   deletionInput{sweep: true, state: stateDisabled, history: states("Enabled@-1h", "Disabled@-1m")},
			want: deletionDecision{reason: deletionEnable, enable: true, former: stateEnabled},
		},
		{
			name: "sweep: disabled when first seen",
			in:   deletionInput{sweep: true, state: stateDisabled, history: states("Disabled@-1m")},
			want: deletionDecision{reason: deletionUnknown},
		},
		{
			name: "sweep: disabled after a deletion was cancelled, and before",
			in:   deletionInput{sweep: true, state: stateDisabled, history: states("Disabled@-2h", "PendingDeletion@-1h", "Disabled@-1m")},
			want: deletionDecision{reason: deletionWasDisabled, former: stateDisabled},
		},
		{
			name: "pending, too often",
			in:   deletionInput{state: statePending, history: states("Enabled@-1h", "PendingDeletion@5s"), fight: fightOpens},
			want: deletionDecision{reason: deletionFlapping, former: stateEnabled, fight: fightOpens},
		},
		{
			name: "pending again before it was enabled, too often",
			in:   deletionInput{state: statePending, history: states("Enabled@-1h", "PendingDeletion@5s"), restore: &restore{}, fight: fightOpen},
			want: deletionDecision{reason: deletionFlapping, former: stateEnabled, fight: fightOpen},
		},
		{
			name: "disabled again, while a fight is on",
			in:   deletionInput{event: "DisableKey", state: stateDisabled, history: states("Enabled@-2h", "Disabled@-1h"), fight: fightOpen},
			want: deletionDecision{reason: deletionWasDisabled, former: stateDisabled},
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
	us := Identity{Account: "444455556666", Name: "cmkeeper", Role: true}
	session := events.Actor{Type: "AssumedRole", AccountID: us.Account, Name: "cmkeeper", Session: "task-1", RoleARN: "arn:aws:iam::444455556666:role/service/cmkeeper"}
	foreign := session
	foreign.AccountID = "777788889999"
	namesake := events.Actor{Type: "IAMUser", AccountID: us.Account, Name: "cmkeeper"}
	known := []ownCall{{Operation: opEnableRotation, At: noon, RequestIDs: []string{"r-1", "r-2"}, Known: true}}
	open := []ownCall{{Operation: opEnableRotation, At: noon}}
	tests := []struct {
		name    string
		actor   events.Actor
		op, id  string
		at      time.Time
		calls   []ownCall
		observe bool
		want    origin
	}{
		{name: "somebody else", actor: namesake, op: opEnableRotation, id: "r-1", calls: known, want: byOthers},
		{name: "our role's name in another account", actor: foreign, op: opEnableRotation, id: "r-1", calls: known, want: byOthers},
		{name: "our call", actor: session, op: opEnableRotation, id: "r-1", calls: known, want: byEcho},
		{name: "another attempt of our call", actor: session, op: opEnableRotation, id: "r-2", calls: known, want: byEcho},
		{name: "another request", actor: session, op: opEnableRotation, id: "r-3", calls: known, want: byImpostor},
		{name: "another operation", actor: session, op: opEnableKey, id: "r-1", calls: known, want: byImpostor},
		{name: "an operation that we never call", actor: session, op: "DeleteAlias", id: "r-1", calls: known, want: byImpostor},
		{name: "an operation that this mode never calls", actor: session, op: opEnableRotation, id: "r-3", calls: open, observe: true, want: byImpostor},
		{name: "our call, made in another mode", actor: session, op: opEnableRotation, id: "r-1", calls: known, observe: true, want: byEcho},
		{name: "no call at all", actor: session, op: opEnableRotation, id: "r-1", want: byImpostor},
		{name: "intent, answer unknown", actor: session, op: opEnableRotation, id: "r-9", calls: open, at: after(time.Minute), want: byEcho},
		{name: "intent, long ago", actor: session, op: opEnableRotation, id: "r-9", calls: open, at: after(time.Hour), want: byImpostor},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := Config{Identity: us, Rotation: Enforce, Deletion: Enforce}
			if tt.observe {
				c.Rotation = Observe
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
		{name: "something newer is known", in: aliasInput{target: "B", exists: true, live: inventory.Alias{TargetKeyARN: "A"}, known: true, newest: aliasTarget{KeyARN: "C", Since: after(time.Second)}}, want: aliasOlder},
		{name: "no time, nothing known", in: aliasInput{target: "B", exists: true, live: inventory.Alias{TargetKeyARN: "A"}}, want: aliasWait},
		{name: "not there yet", in: aliasInput{target: "B"}, want: aliasWait},
		{name: "not there any more", in: aliasInput{target: "B", known: true, newest: aliasTarget{Deleted: true, Since: after(time.Second)}}, want: aliasOlder},
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
			alias: "alias/app-orders", from: []string{"A"},
			key: inventory.Key{
				State: stateEnabled, Manager: managerCustomer, Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT",
				Origin: "AWS_KMS", Account: "444455556666", Region: "eu-central-1",
			},
			findings: []alert.Finding{{Severity: alert.Medium}},
			scope:    []reencrypt.Scope{{Bucket: "b"}},
			patterns: []string{"alias/web", "alias/app-*"},
			account:  "444455556666", region: "eu-central-1",
		}
	}
	tests := []struct {
		name   string
		change func(*moveInput)
		want   []moveReason
	}{
		{"good", func(*moveInput) {}, nil},
		{"not listed", func(in *moveInput) { in.alias = "alias/other" }, []moveReason{moveNotListed}},
		{"no patterns", func(in *moveInput) { in.patterns = nil }, []moveReason{moveNotListed}},
		{"disabled", func(in *moveInput) { in.key.State = stateDisabled }, []moveReason{moveKeyState}},
		{"AWS managed", func(in *moveInput) { in.key.Manager = "AWS" }, []moveReason{moveManager}},
		{"RSA", func(in *moveInput) { in.key.Spec = "RSA_2048" }, []moveReason{moveNotForS3}},
		{"imported", func(in *moveInput) { in.key.Origin = "EXTERNAL" }, []moveReason{moveOrigin}},
		{"other account", func(in *moveInput) { in.key.Account = "777788889999" }, []moveReason{moveElsewhere}},
		{"other Region", func(in *moveInput) { in.key.Region = "us-east-1" }, []moveReason{moveElsewhere}},
		{"high finding", func(in *moveInput) { in.findings = []alert.Finding{{Severity: alert.High}} }, []moveReason{movePolicy}},
		{"old key unknown", func(in *moveInput) { in.from = nil }, []moveReason{moveFromUnknown}},
		{"may not be read", func(in *moveInput) { in.unreadable, in.key = true, inventory.Key{} }, []moveReason{moveUnreadable}},
		{"no scope", func(in *moveInput) { in.scope = nil }, []moveReason{moveNoScope}},
		{"several", func(in *moveInput) { in.alias, in.key.Origin = "alias/x", "EXTERNAL" }, []moveReason{moveNotListed, moveOrigin}},
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
	high := []alert.Finding{{Severity: alert.Low}, {Severity: alert.High}}
	tests := []struct {
		name     string
		in       policyInput
		want     policyReason
		severity alert.Severity
	}{
		{"put, with findings", policyInput{put: true, known: true, findings: high}, policyFindings, alert.High},
		{"put, changed", policyInput{put: true, known: true, changes: 1}, policyChanged, alert.Info},
		{"put, the same", policyInput{put: true, known: true}, policyUnremarkable, alert.Info},
		{"put, nothing to compare with", policyInput{put: true}, policyChanged, alert.Info},
		{"new key, with findings", policyInput{findings: high}, policyFindings, alert.High},
		{"new key", policyInput{}, policyUnremarkable, alert.Info},
		{"sweep, first seen, with findings", policyInput{sweep: true, findings: high}, policyBaseline, alert.High},
		{"sweep, the same, with findings", policyInput{sweep: true, known: true, findings: high}, policyUnremarkable, alert.High},
		{"sweep, changed", policyInput{sweep: true, known: true, changes: 2}, policyChanged, alert.Info},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, severity := decidePolicy(tt.in); got != tt.want || severity != tt.severity {
				t.Errorf("got %q, %q; want %q, %q", got, severity, tt.want, tt.severity)
			}
		})
	}
}

// history shows a document's targets as "A B- C", with a minus for a deletion.
func history(d aliasDoc) string {
	var words []string
	for _, h := range d.History {
		w := h.KeyARN
		if h.Deleted {
			w += "-"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

func TestAliasHistory(t *testing.T) {
	at := func(key string, d time.Duration) aliasTarget { return aliasTarget{KeyARN: key, Since: after(d)} }
	gone := func(key string, d time.Duration) aliasTarget {
		return aliasTarget{KeyARN: key, Since: after(d), Deleted: true}
	}
	tests := []struct {
		name    string
		learn   []aliasTarget
		history string
		from    string // of the pending move after the last one; "" for none
	}{
		{"first", []aliasTarget{at("A", 1)}, "A", ""},
		{"move", []aliasTarget{at("A", 1), at("B", 2)}, "A B", "[A]"},
		{"the same again", []aliasTarget{at("A", 1), at("A", 2)}, "A", ""},
		{"two moves, none dealt with", []aliasTarget{at("A", 1), at("B", 2), at("C", 3)}, "A B C", "[A B]"},
		{"out of order", []aliasTarget{at("A", 1), at("C", 3), at("B", 2)}, "A B C", "[A B]"},
		{"there and back", []aliasTarget{at("A", 1), at("B", 2), at("A", 3)}, "A B A", "[B]"},
		{"delete and create", []aliasTarget{at("A", 1), gone("A", 2), at("B", 3)}, "A A- B", "[A]"},
		{"delete and create, reversed", []aliasTarget{at("A", 1), at("B", 3), gone("A", 2)}, "A A- B", "[A]"},
		{"deleted", []aliasTarget{at("A", 1), gone("", 2)}, "A A-", ""},
		{"deleted before we knew it, then made", []aliasTarget{gone("A", 1), at("B", 2)}, "A- B", "[A]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var d aliasDoc
			for i, l := range tt.learn {
				d.learn(l)
				d.move(pendingMove{ID: fmt.Sprint(i), At: after(time.Hour)})
			}
			if got := history(d); got != tt.history {
				t.Errorf("history %q, want %q", got, tt.history)
			}
			got := ""
			if d.Pending != nil {
				got = fmt.Sprint(d.Pending.From)
			}
			if got != tt.from {
				t.Errorf("pending move from %q, want %q", got, tt.from)
			}
			again := d
			again.History = slices.Clone(d.History)
			for _, l := range tt.learn {
				again.learn(l)
				again.move(pendingMove{ID: "again"})
			}
			if diff := cmp.Diff(d, again); diff != "" {
				t.Errorf("learning the same again changes the document:\n%s", diff)
			}
		})
	}
}

func TestReconcile(t *testing.T) {
	live := func(key string, updated time.Duration) inventory.Alias {
		return inventory.Alias{ARN: "arn", Name: "alias/x", TargetKeyARN: key, Updated: after(updated)}
	}
	var d aliasDoc
	steps := []struct {
		name string
		live inventory.Alias
		at   time.Duration
		want reconcileReason
	}{
		{"first sight", live("A", 0), time.Minute, reconcileFirstSeen},
		{"the same", live("A", 0), 2 * time.Minute, reconcileUnchanged},
		{"an older read", live("B", -time.Hour), 3 * time.Minute, reconcileStale},
		{"another key", live("B", 4*time.Minute), 5 * time.Minute, reconcileCandidate},
		{"again, too soon", live("B", 4*time.Minute), 10 * time.Minute, reconcileWaiting},
		{"yet another key", live("C", 11*time.Minute), 12 * time.Minute, reconcileCandidate},
		{"again, in time", live("C", 11*time.Minute), 22 * time.Minute, reconcileAccepted},
		{"and then", live("C", 11*time.Minute), 23 * time.Minute, reconcileUnchanged},
	}
	for _, s := range steps {
		if got := d.reconcile(s.live, after(s.at)); got != s.want {
			t.Fatalf("%s: %q, want %q", s.name, got, s.want)
		}
	}
	if got := history(d); got != "A C" {
		t.Errorf("history %q", got)
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"bucket-1":     "bucket-1",
		"":             "''",
		"a b":          "'a b'",
		"it's; rm -rf": `'it'\''s; rm -rf'`,
		"$(x)":         "'$(x)'",
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestParseIdentity(t *testing.T) {
	tests := []struct {
		arn  string
		want Identity
	}{
		{"arn:aws:sts::444455556666:assumed-role/cmkeeper/i-0abc", Identity{"444455556666", "cmkeeper", true}},
		{"arn:aws-cn:iam::444455556666:user/ops/carol", Identity{"444455556666", "carol", false}},
		{"arn:aws:iam::444455556666:root", Identity{"444455556666", "root", false}},
	}
	for _, tt := range tests {
		if got, err := ParseIdentity(tt.arn); err != nil || got != tt.want {
			t.Errorf("ParseIdentity(%q) = %+v, %v", tt.arn, got, err)
		}
	}
	for _, bad := range []string{"", "cmkeeper", "arn:aws:sts::444455556666:federated-user/x", "arn:aws:iam::aws:"} {
		if got, err := ParseIdentity(bad); err == nil {
			t.Errorf("ParseIdentity(%q) = %+v, want an error", bad, got)
		}
	}
}

func TestModeText(t *testing.T) {
	var m Mode
	if err := m.UnmarshalText([]byte("enforce")); err != nil || m != Enforce {
		t.Errorf("mode %q, %v", m, err)
	}
	if err := m.UnmarshalText([]byte("on")); err == nil {
		t.Error("mode on is accepted")
	}
}

func TestDecideRefused(t *testing.T) {
	for _, tt := range []struct {
		name     string
		in       refusedInput
		want     refusedReason
		severity alert.Severity
	}{
		{"a dangerous call", refusedInput{severity: alert.High, concerned: true}, refusedAttempt, alert.High},
		{"a harmless call", refusedInput{concerned: true}, refusedHarmless, ""},
		{"another account's key", refusedInput{severity: alert.High}, refusedForeign, ""},
		{"our own repair", refusedInput{severity: alert.High, concerned: true, ours: true, made: true}, refusedOurs, ""},
		{"our role, not our call", refusedInput{severity: alert.Medium, concerned: true, ours: true}, refusedImpostor, alert.Critical},
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
	for state, want := range map[string]alert.Severity{
		stateEnabled: "", stateDisabled: alert.Medium, statePending: alert.High, statePendingReplica: alert.High,
		statePendingImport: alert.Medium, "Unavailable": alert.Medium, "": alert.Medium,
	} {
		if reason, severity := decideUse(state); severity != want {
			t.Errorf("decideUse(%q) = %s, %s; want %s", state, reason, severity, want)
		}
	}
}
