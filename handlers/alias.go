package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// Mover re-encrypts what a moved alias leaves behind; *reencrypt.Engine does.
type Mover interface {
	// Start starts the jobs of a move and returns their ids. Starting a move
	// again is no second move.
	Start(ctx context.Context, m reencrypt.Move) (jobs []string, err error)
	// Resume sends unfinished work again and reports what stalled.
	Resume(ctx context.Context, now time.Time) error
	// BatchChanged looks soon at what S3 Batch Operations do for the jobs.
	BatchChanged(ctx context.Context) error
}

// aliasReason names what an alias event means beside the live alias.
type aliasReason string

const (
	aliasAgrees aliasReason = "agrees" // live shows what the event says
	aliasOlder  aliasReason = "older"  // something newer is known: history only
	aliasWait   aliasReason = "wait"   // live may not show it yet
)

// How long an alias event waits for ListAliases to show it (KMS Developer Guide,
// "eventual consistency": aliases may take minutes), and how often it looks.
const (
	aliasPatience = 15 * time.Minute
	aliasPause    = 30 * time.Second
)

type aliasInput struct {
	deleted bool   // DeleteAlias
	target  string // the event's key; for DeleteAlias the one it had
	at, now time.Time
	live    inventory.Alias
	exists  bool
	newest  aliasTarget
	known   bool
}

// decideAlias compares an alias event with the live alias and with what is
// known. Event times are whole seconds.
func decideAlias(in aliasInput) aliasReason {
	agrees := in.exists && !in.deleted && in.live.TargetKeyARN == in.target || !in.exists && in.deleted
	if agrees {
		return aliasAgrees
	}
	newerLive := in.exists && !in.live.Updated.IsZero() && !in.live.Updated.Before(in.at)
	differs := in.newest.Deleted != in.deleted || !in.deleted && in.newest.KeyARN != in.target
	newerKnown := in.known && differs && !in.newest.Since.Before(in.at)
	age := in.now.Sub(in.at)
	switch {
	case newerLive && in.live.Updated.Truncate(time.Second).Equal(in.at) && age < settling:
		return aliasWait // two changes within one second: which was first does not show yet
	case newerLive, newerKnown, age >= aliasPatience:
		return aliasOlder
	}
	return aliasWait
}

// foreignAlias says why an event's alias is none that this worker guards, or "".
// Old records of DeleteAlias name no key.
func (r *Router) foreignAlias(e events.Event) string {
	if e.KeyARN != "" {
		if why := r.foreign(e); why != "" {
			return why
		}
	}
	return r.elsewhere(e)
}

// alias keeps the history of an alias and deals with its moves.
func (r *Router) alias(ctx context.Context, e events.Event) error {
	if e.Alias == "" || strings.HasPrefix(e.Alias, "alias/aws/") {
		return nil // AWS's own aliases do not move at anybody's will
	}
	aliases, err := r.facts.Aliases(ctx)
	if err != nil {
		return fmt.Errorf("list aliases: %w", err)
	}
	live, exists := find(aliases, e.Alias)
	at := now()
	deleted := e.Name == "DeleteAlias"
	var reason aliasReason
	doc, err := r.updateAlias(ctx, e.Alias, func(doc *aliasDoc) {
		newest, known := doc.newest()
		reason = decideAlias(aliasInput{
			deleted: deleted, target: e.KeyARN, at: e.Time, now: at,
			live: live, exists: exists, newest: newest, known: known,
		})
		if reason == aliasWait {
			return
		}
		if doc.ARN == "" {
			doc.ARN = aliasARN(e)
		}
		t := aliasTarget{KeyARN: e.KeyARN, Since: e.Time, Deleted: deleted}
		if reason == aliasAgrees && !deleted {
			t.Since = sinceOr(live, e.Time)
			doc.Candidate = nil
		}
		doc.learn(t)
		m := pendingFrom(e, at)
		doc.move(m)
		if e.Name == "UpdateAlias" && reason == aliasAgrees && doc.Pending == nil && unknownBefore(doc.History, e.Time) {
			m.To, m.At = e.KeyARN, t.Since
			doc.Pending = &m
		}
	})
	if err != nil {
		return err
	}
	r.log.DebugContext(ctx, "alias decided", "alias", alert.Escape(e.Alias), "event_id", e.ID, "reason", reason)
	if reason == aliasWait {
		return outcome.RetryAfter(aliasPause, fmt.Errorf("%s: waiting for KMS to show what the event says", e.Alias))
	}
	if !exists {
		if deleted {
			return r.aliasGone(ctx, e)
		}
		return nil
	}
	return r.settleMove(ctx, live, doc, aliases)
}

// unknownBefore reports whether nothing is known of an alias's targets before at.
func unknownBefore(history []aliasTarget, at time.Time) bool {
	return !slices.ContainsFunc(history, func(t aliasTarget) bool { return t.Since.Before(at) })
}

func pendingFrom(e events.Event, at time.Time) pendingMove {
	return pendingMove{ID: e.ID, EventName: e.Name, EventID: e.ID, EventTime: e.Time, Actor: alertActor(e), At: at}
}

func find(aliases []inventory.Alias, name string) (inventory.Alias, bool) {
	i := slices.IndexFunc(aliases, func(a inventory.Alias) bool { return a.Name == name })
	if i < 0 {
		return inventory.Alias{}, false
	}
	return aliases[i], true
}

// aliasARN is the ARN of the event's alias, in the partition of its key.
func aliasARN(e events.Event) string {
	prefix, _, ok := strings.Cut(e.KeyARN, ":key/")
	if !ok {
		prefix = strings.Join([]string{"arn", "aws", "kms", e.Region, e.Account}, ":")
	}
	return prefix + ":" + e.Alias
}

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
)

type moveInput struct {
	alias           string
	from            []string
	key             inventory.Key // the to-key
	unreadable      bool          // it may not be read, or its policy may not
	findings        []alert.Finding
	scope           []reencrypt.Scope
	patterns        []string
	account, region string
}

// decideMove returns every reason not to move data by itself; none means that
// it may. Whoever can move an alias must not be able to make us put data under
// a key of theirs.
func decideMove(in moveInput) []moveReason {
	var why []moveReason
	deny := func(holds bool, reason moveReason) {
		if holds {
			why = append(why, reason)
		}
	}
	deny(len(in.from) == 0, moveFromUnknown)
	deny(!slices.ContainsFunc(in.patterns, func(p string) bool { return judgement.Matches(p, in.alias) }), moveNotListed)
	deny(len(in.scope) == 0, moveNoScope)
	if in.unreadable {
		return append(why, moveUnreadable) // nothing else is known of the key
	}
	deny(!in.key.Enabled(), moveKeyState)
	deny(in.key.Manager != managerCustomer, moveManager)
	deny(in.key.Spec != "SYMMETRIC_DEFAULT", moveNotForS3) // there is no other use of such a key than to encrypt
	deny(in.key.Origin != "AWS_KMS", moveOrigin)
	deny(in.key.Account != in.account || in.key.Region != in.region, moveElsewhere)
	deny(slices.ContainsFunc(in.findings, func(f alert.Finding) bool { return f.Severity.AtLeast(alert.High) }), movePolicy)
	return why
}

// moveText says a reason in a sentence.
var moveText = map[moveReason]string{
	moveNotListed:   "The alias is not among those whose moves may move data (CMKEEPER_REENCRYPT_ALIASES).",
	moveKeyState:    "The new key is not Enabled.",
	moveManager:     "The new key is not customer managed.",
	moveNotForS3:    "The new key is not a symmetric encryption key, which S3 needs.",
	moveOrigin:      "The new key's material does not come from KMS: who imported it, or holds its key store, can take it away with the data.",
	moveElsewhere:   "The new key is in another account or Region.",
	movePolicy:      "The new key's policy has findings of severity high or above.",
	moveUnreadable:  "The new key or its policy may not be read by cmkeeper, so nothing is known of it.",
	moveFromUnknown: "Which key the alias pointed to before is not known: the event does not say, and cmkeeper had not seen the alias.",
	moveNoScope:     "No bucket is known to belong to the alias.",
}

// isDangerous reports whether a reason is about the new key itself.
func (m moveReason) isDangerous() bool {
	switch m {
	case moveKeyState, moveManager, moveNotForS3, moveOrigin, moveElsewhere, movePolicy, moveUnreadable:
		return true
	case moveNotListed, moveFromUnknown, moveNoScope:
	}
	return false
}

// settleMove deals with the pending move of an alias: starts the re-encryption
// or tells people why not and how to. Only then is the move no longer pending.
// While the alias points elsewhere it stays pending: whatever event or sweep
// tells of that makes it part of the next move.
func (r *Router) settleMove(ctx context.Context, live inventory.Alias, doc aliasDoc, aliases []inventory.Alias) error {
	m := doc.Pending
	if m == nil || live.TargetKeyARN != m.To {
		return nil
	}
	key, findings, err := r.target(ctx, m.To)
	unreadable := errors.Is(err, inventory.ErrAccessDenied)
	if err != nil && !unreadable {
		return fmt.Errorf("read the key that %s moved to: %w", live.Name, err)
	}
	buckets, bucketsErr := r.facts.Buckets(ctx)
	if bucketsErr != nil && !errors.Is(bucketsErr, inventory.ErrAccessDenied) {
		return fmt.Errorf("find the buckets of %s: %w", live.Name, bucketsErr)
	}
	rivals, err := r.rivals(ctx, live, aliases)
	if err != nil {
		return err
	}
	scope, refused := reencrypt.ResolveScope(reencrypt.NewMovingAlias(live, m.From, aliases), rivals, buckets, r.config.ReencryptScope, r.config.StateBucket)
	why := decideMove(moveInput{
		alias: live.Name, from: m.From, key: key, unreadable: unreadable, findings: findings, scope: scope,
		patterns: r.config.ReencryptAliases, account: r.config.Identity.Account, region: r.config.Region,
	})
	r.log.DebugContext(ctx, "move decided", "alias", alert.Escape(live.Name), "from", m.From, "to", m.To, "reasons", why, "scope", len(scope))

	a := r.moveAlert(*m, live, key, findings)
	a.Facts = append(a.Facts, scopeFacts(scope, refused, bucketsErr)...)
	a.Action.Mode = string(r.config.Reencrypt)
	started := false
	switch {
	case len(why) > 0:
		r.tellRefusal(&a, why, *m, scope)
	case r.config.Reencrypt != Enforce:
		a.ID += "/" + string(alert.StatusWouldDo)
		a.Action.Status = alert.StatusWouldDo
		a.Action.Description = fmt.Sprintf("Would re-encrypt to the new key what is under the old one: see the places in scope below (%d).", len(scope))
		a.Next = append(runCommands(*m, scope, r.config.StateBucket), a.Next...)
	default:
		jobs, err := r.moves.Start(ctx, reencrypt.Move{AliasARN: live.ARN, From: m.From, To: m.To, At: m.At, Scope: scope})
		if errors.Is(err, reencrypt.ErrRival) {
			a.ID += "/waits"
			a.Action.Status = alert.StatusRefused
			a.Action.Description = fmt.Sprintf("The re-encryption waits: %v. It is started when that job has ended.", err)
			a.Next = append([]string{"cmkeeper reencrypt list"}, a.Next...)
			return errors.Join(err, r.publish(ctx, a))
		}
		if err != nil {
			a.Next = append(runCommands(*m, scope, r.config.StateBucket), a.Next...)
			return r.failed(ctx, a, r.config.Reencrypt, "start the re-encryption", err)
		}
		started = true
		a.Action.Status = alert.StatusDone
		a.Action.Description = fmt.Sprintf("Re-encryption to the new key was started (jobs: %d). Each job reports when it is complete.", len(jobs))
		a.Facts = append(a.Facts, alert.Fact{Name: "jobs", Values: jobs})
		a.Next = append(a.Next, "Keep the old key enabled until every job has reported that it is complete.")
	}
	if err := r.publish(ctx, a); err != nil {
		return err
	}
	_, err = r.updateAlias(ctx, live.Name, func(doc *aliasDoc) {
		if doc.Pending == nil || doc.Pending.ID != m.ID || doc.Pending.To != m.To {
			return // it has become part of a newer move
		}
		doc.Pending = nil
		if started {
			doc.Started = m.At
		}
	})
	return err
}

// target reads the key that an alias moved to and judges its policy. A key that
// may not be read has its ARN only.
func (r *Router) target(ctx context.Context, arn string) (inventory.Key, []alert.Finding, error) {
	key, err := r.facts.Key(ctx, arn)
	if err != nil {
		return inventory.Key{ARN: arn}, nil, err
	}
	policy, err := r.facts.Policy(ctx, arn)
	if err != nil {
		return key, nil, err
	}
	return key, r.compare(nil, arn, policy, false).found, nil
}

// rivalWindow is how long after its start a move still claims its buckets.
const rivalWindow = 24 * time.Hour

// rivals returns the other aliases that are moving, too: a bucket that two of
// them claim belongs to neither.
func (r *Router) rivals(ctx context.Context, self inventory.Alias, aliases []inventory.Alias) ([]reencrypt.MovingAlias, error) {
	var mu sync.Mutex
	var found []reencrypt.MovingAlias
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sweepConcurrency)
	for _, a := range aliases {
		listed := slices.ContainsFunc(r.config.ReencryptAliases, func(p string) bool { return judgement.Matches(p, a.Name) })
		if a.Name == self.Name || a.AWSManaged || !listed {
			continue
		}
		g.Go(func() error {
			doc, err := r.knownAlias(ctx, a.Name)
			if err != nil {
				return err
			}
			if doc.Pending == nil && time.Since(doc.Started) > rivalWindow {
				return nil
			}
			var old []string
			for _, t := range doc.History {
				if t.Left {
					old = append(old, t.KeyARN)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, reencrypt.NewMovingAlias(a, old, aliases))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("find other aliases that are moving: %w", err)
	}
	return found, nil
}

// moveAlert is what all alerts about a moved alias have in common.
func (r *Router) moveAlert(m pendingMove, live inventory.Alias, key inventory.Key, findings []alert.Finding) alert.Alert {
	a := alert.Alert{
		ID: m.ID + "/alias", Kind: alert.KindAlias, Severity: alert.Medium,
		EventName: m.EventName, EventID: m.EventID, Time: m.EventTime,
		Account: r.config.Identity.Account, Region: r.config.Region,
		Key:      &alert.Key{ARN: key.ARN, Aliases: []string{live.Name}, Description: key.Description, State: key.State, DeletionDate: key.DeletionDate},
		Actor:    m.Actor,
		Title:    "Alias " + live.Name + " points to another key",
		Findings: findings,
		Risk:     "New data goes under the new key, while what was written before stays under the old one and is lost if that is deleted.",
	}
	by := "The sweep noticed it; no event told."
	if m.Actor != nil {
		by = m.Actor.Name + " called " + m.EventName + "."
	}
	a.Summary = fmt.Sprintf("%s The alias points to %s now.", by, keyID(m.To))
	if len(m.From) > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "old keys", Values: m.From})
	}
	return a
}

func (r *Router) tellRefusal(a *alert.Alert, why []moveReason, m pendingMove, scope []reencrypt.Scope) {
	a.Action.Status = alert.StatusRefused
	var sentences []string
	for _, reason := range why {
		sentences = append(sentences, moveText[reason])
		if reason.isDangerous() {
			a.Severity = alert.High
		}
	}
	a.Action.Description = "No data was moved. " + strings.Join(sentences, " ")
	if a.Severity == alert.High {
		a.Risk = "Whoever moved the alias may want data under a key that they control. New data goes under that key already."
		a.Next = append(a.Next, "Check the new key first. Move data only when it is what you want; otherwise point the alias back.")
	}
	if len(m.From) == 0 {
		a.Next = append(a.Next, "Find the old key in CloudTrail (the CreateAlias or UpdateAlias before this one):",
			"aws cloudtrail lookup-events --region "+shellQuote(a.Region)+" --lookup-attributes AttributeKey=ResourceName,AttributeValue="+shellQuote(a.Key.Aliases[0]))
	}
	a.Next = append(a.Next, "To move the data by hand:")
	a.Next = append(a.Next, runCommands(m, scope, r.config.StateBucket)...)
}

// runCommands are the commands that move the data by hand, to be pasted where
// cmkeeper's variables are not set. What is not known is a word to be replaced.
func runCommands(m pendingMove, scope []reencrypt.Scope, stateBucket string) []string {
	from := m.From
	if len(from) == 0 {
		from = []string{"OLD-KEY-ARN"}
	}
	if len(scope) == 0 {
		scope = []reencrypt.Scope{{Bucket: "BUCKET"}}
	}
	var commands []string
	for _, s := range scope {
		c := "cmkeeper reencrypt run --bucket " + shellQuote(s.Bucket)
		if s.Prefix != "" {
			c += " --prefix " + shellQuote(s.Prefix)
		}
		for _, key := range from {
			c += " --from " + shellQuote(key)
		}
		c += " --to " + shellQuote(m.To)
		if stateBucket != "" {
			c += " --state-bucket " + shellQuote(stateBucket)
		}
		commands = append(commands, c)
	}
	return commands
}

func scopeFacts(scope []reencrypt.Scope, refused []reencrypt.ScopeRefusal, bucketsErr error) []alert.Fact {
	var in, out []string
	for _, s := range scope {
		in = append(in, address(s))
	}
	for _, s := range refused {
		out = append(out, address(s.Scope)+": "+s.Reason)
	}
	if bucketsErr != nil {
		out = append(out, fmt.Sprintf("buckets that could not be read: %v", bucketsErr))
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

func address(s reencrypt.Scope) string { return "s3://" + s.Bucket + "/" + s.Prefix }
