package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/rotate"
	"github.com/cmkeeper/cmkeeper/state"
)

// moveReason names why a move does not move data by itself.
type moveReason string

const (
	moveNotListed   moveReason = "alias-not-listed"
	moveKeyState    moveReason = "key-not-enabled"
	moveManager     moveReason = "key-not-customer-managed"
	moveNotForS3    moveReason = "key-not-symmetric"
	moveOrigin      moveReason = "key-material-not-from-kms"
	moveElsewhere   moveReason = "key-in-other-account-or-region"
	movePolicy      moveReason = "key-policy-findings"
	moveUnreadable  moveReason = "key-not-readable"
	moveFromUnknown moveReason = "old-key-unknown"
	moveNoScope     moveReason = "nothing-in-scope"
	moveByRotation  moveReason = "rotation-moves-it"
)

type moveInput struct {
	listed          bool // the alias is one whose moves may move data
	rotation        bool // a rotation that somebody runs moves the data itself
	from            []string
	key             inventory.Key // the to-key
	unreadable      bool          // it may not be read, or its policy may not
	findings        []finding.Finding
	scope           []reencrypt.Scope
	account, region string
}

// decideMove returns every reason not to move data by itself; none means that it may.
// An actor who can move an alias must not be able to make us put data under a key of
// theirs.
func decideMove(in moveInput) []moveReason {
	var why []moveReason
	deny := func(holds bool, reason moveReason) {
		if holds {
			why = append(why, reason)
		}
	}
	deny(in.rotation, moveByRotation)
	deny(len(in.from) == 0, moveFromUnknown)
	deny(!in.listed && !in.rotation, moveNotListed)
	deny(len(in.scope) == 0 && !in.rotation, moveNoScope)
	if in.unreadable {
		return append(why, moveUnreadable) // nothing else is known of the key
	}
	deny(!in.key.Enabled(), moveKeyState)
	deny(in.key.Manager != managerCustomer, moveManager)
	deny(in.key.Spec != "SYMMETRIC_DEFAULT" && !in.rotation, moveNotForS3) // there is no other use of such a key than to encrypt
	deny(in.key.Origin != "AWS_KMS" && !in.rotation, moveOrigin)           // a rotation copies the old key's
	deny(in.key.Account != in.account || in.key.Region != in.region, moveElsewhere)
	deny(slices.ContainsFunc(in.findings, func(f finding.Finding) bool { return f.Severity.AtLeast(finding.High) }), movePolicy)
	return why
}

// managerCustomer is the KeyManager of the keys that are guarded.
const managerCustomer = "CUSTOMER"

// moveText says a reason in a sentence.
var moveText = map[moveReason]string{
	moveNotListed:   "CMKEEPER_REENCRYPT_ALIASES does not list the alias.",
	moveKeyState:    "The new key is not Enabled.",
	moveManager:     "The new key is not customer managed.",
	moveNotForS3:    "The new key is not a symmetric encryption key, which S3 needs.",
	moveOrigin:      "The new key's material does not come from KMS: the owner of the imported material, or the operator of the key store, can make the data unreadable.",
	moveElsewhere:   "The new key is in another account or Region.",
	movePolicy:      "The new key's policy has findings of severity high or above.",
	moveUnreadable:  "cmkeeper may not read the new key or its policy, so it cannot check the key.",
	moveFromUnknown: "The key that the alias pointed to before is not known: the event does not say, and cmkeeper had not seen the alias.",
	moveNoScope:     "No bucket is known to belong to the alias.",
	moveByRotation:  "A rotation by cmkeeper rotate moves the data with jobs of its own.",
}

// isDangerous reports whether a reason is about the new key itself.
func (m moveReason) isDangerous() bool {
	switch m {
	case moveNotListed, moveFromUnknown, moveNoScope, moveByRotation:
		return false
	default:
		return true
	}
}

// moveCase is a move of an alias that is not dealt with yet, and what comes of it.
type moveCase struct {
	*reaction.Case
	ledger.Move
	live       inventory.Alias
	key        inventory.Key
	findings   []finding.Finding
	scope      []reencrypt.Scope
	refused    []reencrypt.ScopeRefusal
	bucketsErr error
	rotation   string // the id of the rotation that moves the data, "" for none
	why        []moveReason
	jobs       []string
	failure    error
}

// move deals with the pending move of an alias: starts the re-encryption or says
// why not and how to. Only then is the move no longer pending. While the alias
// points elsewhere it stays pending: the event or sweep that shows that makes it part
// of the next move.
func move(ctx context.Context, c *reaction.Case, live inventory.Alias) (*reaction.Decision, error) {
	doc, err := c.AliasLedger(ctx)
	if err != nil || doc.Pending == nil || live.TargetKeyARN != doc.Pending.To {
		return nil, err
	}
	m := &moveCase{Case: c, Move: *doc.Pending, live: live}
	if err := m.decide(ctx); err != nil {
		return nil, err
	}
	c.Debug(ctx, "move decided", "alias", alert.Escape(live.Name), "from", m.From, "to", m.To, "reasons", m.why, "scope", len(m.scope))
	var started time.Time
	d := &reaction.Decision{Tell: m.tell, Told: reaction.Told{Alias: func(a *ledger.Alias) { a.Finish(m.Move, started) }}}
	if len(m.why) == 0 && c.Config.Reencrypt == reaction.Enforce {
		if wait := doc.Resting(c.At); wait > 0 {
			// The move stays pending, and takes up those that follow until then.
			if c.IsSweep() {
				return nil, nil
			}
			return nil, outcome.RetryAfter(wait, fmt.Errorf("%s: so many re-encryptions were started that the next one waits", live.Name))
		}
		started, d.Act = c.At, m.start
	}
	return d, nil
}

// decide reads the new key, the buckets and the other aliases that are moving, and
// decides whether data may be moved.
func (m *moveCase) decide(ctx context.Context) error {
	err := m.target(ctx)
	unreadable := errors.Is(err, inventory.ErrAccessDenied)
	if err != nil && !unreadable {
		return fmt.Errorf("read the key that %s moved to: %w", m.live.Name, err)
	}
	buckets, err := m.Buckets(ctx)
	if m.bucketsErr = err; err != nil && !errors.Is(err, inventory.ErrAccessDenied) {
		return fmt.Errorf("find the buckets of %s: %w", m.live.Name, err)
	}
	aliases, err := m.Aliases(ctx)
	if err != nil {
		return err
	}
	rivals, err := m.rivals(ctx, aliases)
	if err != nil {
		return err
	}
	m.scope, m.refused = reencrypt.ResolveScope(reencrypt.NewMovingAlias(m.live, m.From, aliases), rivals, buckets, m.Config.ReencryptScope, m.Config.StateBucket)
	m.rotation, err = rotate.Moves(ctx, m.State, m.live.Name, m.From, m.To)
	if err != nil && !errors.Is(err, state.ErrUnreadable) { // a newer build's; moving twice does no harm
		return err
	}
	m.why = decideMove(moveInput{
		listed: m.Config.Lists(m.live.Name), rotation: m.rotation != "", from: m.From, key: m.key, unreadable: unreadable, findings: m.findings, scope: m.scope,
		account: m.Config.Identity.Account, region: m.Config.Region,
	})
	return nil
}

// target reads the key that the alias moved to and judges its policy. A key that may
// not be read has its ARN only.
func (m *moveCase) target(ctx context.Context) (err error) {
	to := m.For(m.To)
	if m.key, err = to.Key(ctx); err != nil {
		m.key = inventory.Key{ARN: m.To}
		return err
	}
	policy, err := to.Policy(ctx)
	if err == nil {
		m.findings = m.JudgePolicy(m.To, policy, false).Found
	}
	return err
}

// rivalWindow is how long after its start a move still claims its buckets.
const rivalWindow = 24 * time.Hour

// rivals returns the other aliases that are moving, too: a bucket that two of them
// claim belongs to neither.
func (m *moveCase) rivals(ctx context.Context, aliases []inventory.Alias) ([]reencrypt.MovingAlias, error) {
	var mu sync.Mutex
	var found []reencrypt.MovingAlias
	others := slices.DeleteFunc(slices.Clone(aliases), func(a inventory.Alias) bool {
		return a.Name == m.live.Name || a.AWSManaged || !m.Config.Lists(a.Name)
	})
	err := reaction.Each(ctx, others, func(ctx context.Context, a inventory.Alias) error {
		doc, err := m.AliasKnown(ctx, a.Name)
		if err != nil || doc.Pending == nil && time.Since(doc.Started) > rivalWindow {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		found = append(found, reencrypt.NewMovingAlias(a, doc.Left(), aliases))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find other aliases that are moving: %w", err)
	}
	return found, nil
}

// start starts the re-encryption.
func (m *moveCase) start(ctx context.Context) error {
	m.jobs, m.failure = m.Moves.Start(ctx, reencrypt.Move{AliasARN: m.live.ARN, From: m.From, To: m.To, At: m.Move.At, Scope: m.scope})
	return m.failure
}

// tell composes the alert about the result of a move.
func (m *moveCase) tell() []alert.Alert {
	a := m.common()
	a.Facts = append(a.Facts, m.scopeFacts()...)
	mode := m.Config.Reencrypt
	a.Action.Mode = string(mode)
	switch {
	case len(m.why) > 0:
		m.tellRefusal(&a)
	case mode != reaction.Enforce:
		a.ID += "/" + string(alert.StatusWouldDo)
		a.Action.Status = alert.StatusWouldDo
		a.Action.Description = fmt.Sprintf("Would re-encrypt data from the old key to the new one (places in scope: %d, listed below).", len(m.scope))
		a.Next = append(m.runCommands(), a.Next...)
	case errors.Is(m.failure, reencrypt.ErrRival):
		a.ID += "/waits"
		a.Action.Status = alert.StatusRefused
		a.Action.Description = fmt.Sprintf("The re-encryption waits: %v. It starts when that job has ended.", m.failure)
		a.Next = append([]string{"cmkeeper reencrypt list"}, a.Next...)
	case m.failure != nil:
		a.Next = append(m.runCommands(), a.Next...)
		return m.Failed(a, mode, "start the re-encryption", m.failure)
	default:
		a.Action.Status = alert.StatusDone
		a.Action.Description = fmt.Sprintf("Re-encryption to the new key was started (jobs: %d). Each job reports when it is complete.", len(m.jobs))
		a.Facts = append(a.Facts, alert.Fact{Name: "jobs", Values: m.jobs})
		a.Next = append(a.Next, "Keep the old key enabled until every job has reported that it is complete.")
	}
	return []alert.Alert{a}
}

// common is what all alerts about a moved alias have in common.
func (m *moveCase) common() alert.Alert {
	a := alert.Alert{
		ID: m.ID + "/alias", Kind: alert.KindAlias, Severity: finding.Medium,
		EventName: m.EventName, EventID: m.EventID, Time: m.EventTime,
		Account: m.Config.Identity.Account, Region: m.Config.Region,
		Key:      &alert.Key{ARN: m.key.ARN, Aliases: []string{m.live.Name}, Description: m.key.Description, State: m.key.State, DeletionDate: m.key.DeletionDate},
		Actor:    reaction.AlertActor(m.Actor),
		Title:    "Alias " + m.live.Name + " was moved to key " + arn.KeyID(m.To),
		Findings: m.findings,
		Risk:     "New data is encrypted under the new key. Existing data stays under the old key and is lost if that key is deleted.",
	}
	by := "The sweep noticed the move; " + reaction.Unreported
	if m.Actor != nil {
		by = m.Actor.Name + " called " + m.EventName + "."
	}
	a.Summary = fmt.Sprintf("%s The alias points to %s now.", by, arn.KeyID(m.To))
	if len(m.From) > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "old keys", Values: m.From})
	}
	return a
}

func (m *moveCase) tellRefusal(a *alert.Alert) {
	a.Action.Status = alert.StatusRefused
	var sentences []string
	for _, reason := range m.why {
		sentences = append(sentences, moveText[reason])
		if reason.isDangerous() {
			a.Severity = finding.High
		}
	}
	a.Action.Description = "No data was moved. " + strings.Join(sentences, " ")
	if m.rotation != "" {
		a.Action.Description = "The fleet started no jobs. " + strings.Join(sentences, " ")
		if a.Severity != finding.High {
			a.Action.Status, a.Severity = alert.StatusNone, finding.Low
		}
	}
	if a.Severity == finding.High {
		a.Risk = "The actor who moved the alias may want your data under a key that they control. New data already goes under that key."
		a.Next = append(a.Next, "Check the new key first. Move data only if the new key is intended; otherwise point the alias back to the old key.")
	}
	if len(m.From) == 0 {
		a.Next = append(a.Next, "Find the old key in CloudTrail (the CreateAlias or UpdateAlias before this one):", m.LookupCommand("ResourceName", command.Alias(a.Key.Aliases[0])))
	}
	if m.rotation != "" {
		a.Facts = append(a.Facts, alert.Fact{Name: "rotation", Values: []string{m.rotation}})
		a.Next = append(a.Next, command.Line("cmkeeper rotate status %s", command.Rotation(m.rotation)))
		return
	}
	a.Next = append(a.Next, "To move the data by hand:")
	a.Next = append(a.Next, m.runCommands()...)
}

// runCommands move the data by hand.
func (m *moveCase) runCommands() []string {
	return reaction.ReencryptCommands(m.From, m.To, m.scope, m.Config.StateBucket, m.Config.EnvelopeFlags)
}

func (m *moveCase) scopeFacts() []alert.Fact {
	address := func(s reencrypt.Scope) string { return "s3://" + s.Bucket + "/" + s.Prefix }
	var in, out []string
	for _, s := range m.scope {
		in = append(in, address(s))
	}
	for _, s := range m.refused {
		out = append(out, address(s.Scope)+": "+s.Reason)
	}
	if m.bucketsErr != nil {
		out = append(out, fmt.Sprintf("buckets that could not be read: %v", m.bucketsErr))
	}
	var facts []alert.Fact
	if len(in) > 0 {
		facts = append(facts, alert.Fact{Name: "in scope", Values: in})
	}
	if len(out) > 0 {
		facts = append(facts, alert.Fact{Name: "not in scope", Values: out})
	}
	return facts
}
