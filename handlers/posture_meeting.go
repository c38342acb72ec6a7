package handlers

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/handlers/sweep"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/posture"
	"github.com/cmkeeper/cmkeeper/state"
	"github.com/cmkeeper/cmkeeper/storage"
)

// meeting is the first sweep over an account by a build that tells what it finds at first.
//
// Each key, bucket and the account note in their documents what is wrong with them, and say
// nothing (reaction.Watch). At the end of the sweep somebody, no matter which worker, reads
// all documents, tells in one alert what nobody was told of, notes in each document that it
// is told, and then that the account is met. Whatever dies in between is done again by the
// next sweep, which is a first one, too: the same findings are one alert.
//
// Where there are many keys, their grants and tags are read when the rest of a sweep is
// done. What that finds is told at the end of the second sweep, which is part of the first
// meeting then.
type meeting struct {
	look
	// what is looked at, and of in a sentence or two.
	what, of string
	mu       sync.Mutex
	found    []standingOf
	exempt   int
	// more is how many dangers were found that no document has room for.
	more int
}

// standingOf is what nobody was told of in one document.
type standingOf struct {
	// document is its name in the state bucket.
	document string
	// key is the ARN of the key that it is about, thing what else it is about.
	key, thing string
	aliases    []string
	open       []ledger.Open
	more       int
}

// The folders of documents that have a standing.
const (
	keyDocuments    = "keys/"
	bucketDocuments = "buckets/"
)

// meet tells what was wrong before the account was first looked at, if it was not told yet.
func (s look) meet(ctx context.Context) error {
	if first, err := s.Whole.Meeting(ctx); err != nil || !first {
		return err
	}
	m := &meeting{look: s, what: "Posture", of: "cmkeeper looked at all keys, buckets and settings here for the first time. Keys that are not named are healthy as far as they could be read."}
	if err := m.collect(ctx); err != nil {
		return fmt.Errorf("collect how things stand: %w", err)
	}
	if err := m.tell(ctx); err != nil {
		return err
	}
	err := state.Update(ctx, s.State, ledger.AccountName, func(doc *ledger.Account, _ bool) error {
		switch {
		case !doc.Met.IsZero():
		case s.Rolling || !doc.Looked.IsZero() && doc.Looked.Before(s.Start):
			doc.Met = s.Start
		case doc.Looked.IsZero():
			doc.Looked = s.Start
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note that the account is met: %w", err)
	}
	s.Logger.InfoContext(ctx, "account met", "things_with_dangers", len(m.found), "exempt", m.exempt)
	return nil
}

// meetAccess tells in one alert what the first review found.
func (s look) meetAccess(ctx context.Context) error {
	m := &meeting{look: s, what: "Access review", of: "cmkeeper reviewed for the first time who can come to the keys here by the account's IAM: roles that somebody outside may assume, and principals that can give themselves a key."}
	err := m.each(ctx, ledger.AccessDocuments, func(ctx context.Context, name string) error {
		var doc ledger.Access
		_, err := m.State.Get(ctx, name, &doc)
		m.add(err, standingOf{document: name, key: doc.Key, aliases: doc.Aliases}, doc.Standing)
		return err
	})
	if err != nil {
		return fmt.Errorf("collect what the access review found: %w", err)
	}
	return m.tell(ctx)
}

// tell tells what was found in one alert, and notes that.
func (m *meeting) tell(ctx context.Context) error {
	if len(m.found) == 0 {
		return nil
	}
	a := m.alert()
	if err := m.Publish(ctx, a); err != nil {
		return err
	}
	if err := m.told(ctx, a); err != nil {
		return fmt.Errorf("note that people know how things stand: %w", err)
	}
	return nil
}

// collect reads all documents.
func (m *meeting) collect(ctx context.Context) error {
	keys := m.each(ctx, keyDocuments, func(ctx context.Context, name string) error {
		var doc ledger.Key
		_, err := m.State.Get(ctx, name, &doc)
		m.add(err, standingOf{document: name, key: doc.ARN, aliases: doc.Aliases}, doc.Standing)
		return err
	})
	buckets := m.each(ctx, bucketDocuments, func(ctx context.Context, name string) error {
		var doc ledger.Bucket
		_, err := m.State.Get(ctx, name, &doc)
		m.add(err, standingOf{document: name, thing: doc.Bucket}, doc.Standing)
		return err
	})
	var doc ledger.Account
	_, err := m.State.Get(ctx, ledger.AccountName, &doc)
	m.add(err, standingOf{document: ledger.AccountName}, doc.Standing)
	return errors.Join(keys, buckets, m.gone(err))
}

// each calls do for all documents of a folder, some at a time.
func (m *meeting) each(ctx context.Context, folder string, do func(context.Context, string) error) error {
	var names []string
	for name, err := range m.State.Keys(ctx, folder) {
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	return sweep.Each(ctx, m.Sweep, names, func(ctx context.Context, name string) error { return m.gone(do(ctx, name)) })
}

// gone returns the error, but for a document that is not there (any more).
func (m *meeting) gone(err error) error {
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	return err
}

func (m *meeting) add(err error, of standingOf, standing ledger.Standing) {
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range standing.Open {
		switch {
		case o.Alert != "" || !o.Gone.IsZero():
		case o.Exempt:
			m.exempt++
		default:
			of.open = append(of.open, o)
		}
	}
	of.more = standing.More
	m.more += of.more
	if len(of.open) > 0 || of.more > standing.MoreTold {
		m.found = append(m.found, of)
	}
}

// thread is the chat thread of the alert, and of those that what it told of is over.
func (m *meeting) thread() string {
	return strings.ToLower(m.what) + " of account " + m.Config.Identity.Account + " in " + m.Config.Region
}

// alert makes one alert of all that was found. The same findings have the same id.
func (m *meeting) alert() alert.Alert {
	slices.SortFunc(m.found, func(a, b standingOf) int { return strings.Compare(a.document, b.document) })
	var survey alert.Survey
	id, keys, kinds := sha256.New(), 0, map[alert.Kind]int{}
	for _, f := range m.found {
		if f.key != "" {
			keys++
		}
		for _, o := range f.open {
			fmt.Fprintf(id, "%s %s %d\n", f.document, o.Name, o.Since.UnixMilli())
			kinds[alert.Kind(o.Kind)]++
			survey.Add(m.row(f, o))
		}
	}
	a := m.GuardAlert(fmt.Sprintf("posture/%x", id.Sum(nil)), "")
	a.Title = fmt.Sprintf("%s of account %s in %s: %d dangers, keys affected: %d", m.what, m.Config.Identity.Account, m.Config.Region, survey.Len(), keys)
	a.Summary = m.of + " This is what it found to be wrong as it stands, the worst first. From now on it tells only what is new, worse or over."
	if m.more > 0 {
		a.Summary += fmt.Sprintf(" Not named, because one thing has more than %d dangers: %d.", ledger.MostOpen, m.more)
	}
	if m.exempt > 0 {
		a.Summary += fmt.Sprintf(" Exempt, and not named: %d.", m.exempt)
	}
	a.Risk = "Each row says what is wrong. None of it happened just now: it may have been so for long, and it may be meant."
	a.Action.Description = "cmkeeper found it as it stands, and leaves it. Where a mode enforces something, that is told by alerts of its own."
	a.Next = []string{"Go through the table from the top. Each row has the command to look at it, or to put it right if it is not meant.",
		"Exempt what is meant, with a reason and an end (CMKEEPER_EXEMPTIONS)."}
	var lines []string
	for _, kind := range []alert.Kind{alert.KindPolicy, alert.KindGrant, alert.KindDeletion, alert.KindMaterial, alert.KindRotation, alert.KindContainment, alert.KindTag, alert.KindAlias, alert.KindKeyStore, alert.KindEncryption} {
		if n := kinds[kind]; n > 0 {
			lines = append(lines, fmt.Sprintf("%s: %d", kind, n))
		}
	}
	a.Facts = []alert.Fact{{Name: "dangers by kind", Values: lines}}
	return survey.Alert(a, m.thread())
}

// row is one danger.
func (m *meeting) row(f standingOf, o ledger.Open) alert.Alert {
	a := alert.Alert{
		ID: f.document + "/" + o.Name, Kind: alert.Kind(o.Kind), Severity: o.Severity, EventName: reaction.SweepName, Time: o.Since, Title: o.Title,
		Next: []string{m.step(f, o)},
	}
	if f.key != "" {
		a.Key = &alert.Key{ARN: f.key, Aliases: f.aliases, Sensitive: o.Sensitive}
	}
	return a
}

// step is the first thing to do about a danger: a command that puts it right, should it not
// be meant, or that shows it.
func (m *meeting) step(f standingOf, o ledger.Open) string {
	e := m.Whole.Event
	e.KeyARN = f.key
	c := m.Whole.Part(e)
	switch o.Name {
	case posture.DangerPolicy, posture.DangerReopened:
		return c.KMSCommand("get-key-policy --policy-name default --output text")
	case posture.DangerDeletion:
		return c.KMSCommand("cancel-key-deletion")
	case posture.DangerDisabled:
		return c.KMSCommand("enable-key")
	case posture.DangerRotation:
		return c.KMSCommand("enable-key-rotation --rotation-period-in-days %s", command.Number(m.Config.Posture.RotationPeriodDays))
	case posture.DangerAge:
		return reaction.ReplaceKey(&alert.Key{Aliases: f.aliases})[min(1, len(f.aliases))]
	case posture.DangerMaterial, posture.DangerExpiry:
		return "Import the same key material again from your own copy; AWS has none."
	case posture.DangerUnavailable:
		return command.Line("aws kms describe-custom-key-stores --region %s", m.InRegion())
	case posture.DangerApproval:
		return c.KMSCommand("untag-resource --tag-keys %s", command.TagKey(reaction.ApprovalTag))
	case posture.DangerEBS:
		return command.Line("aws ec2 enable-ebs-encryption-by-default --region %s", m.InRegion())
	}
	switch id := posture.StoreID(o.Name); {
	case strings.HasPrefix(f.document, ledger.AccessDocuments):
		return command.Line("cmkeeper access %s", command.Key(f.key))
	case storage.IsName(o.Name):
		return "Find these resources with an advanced query of AWS Config, and look at their encryption."
	case id != "":
		return command.Line("aws kms connect-custom-key-store --region %s --custom-key-store-id %s", m.InRegion(), command.KeyStore(id))
	case posture.GrantID(o.Name) != "":
		return c.KMSCommand("revoke-grant --grant-id %s", command.GrantID(posture.GrantID(o.Name)))
	}
	return command.Line("aws s3api get-bucket-encryption --bucket %s --region %s", command.Bucket(f.thing), m.InRegion())
}

// told notes in each document that the alert told of what was found there.
func (m *meeting) told(ctx context.Context, a alert.Alert) error {
	return sweep.Each(ctx, m.Sweep, m.found, func(ctx context.Context, f standingOf) error {
		note := func(s *ledger.Standing) {
			for _, o := range f.open {
				if known := s.Of(o.Name); known != nil && known.Alert == "" {
					o.Alert, o.Thread = a.ID, a.Thread
					s.Told(o)
				}
			}
			s.TellMore(f.more)
		}
		switch {
		case strings.HasPrefix(f.document, keyDocuments):
			return state.Update(ctx, m.State, f.document, func(doc *ledger.Key, _ bool) error { note(&doc.Standing); return nil })
		case strings.HasPrefix(f.document, ledger.AccessDocuments):
			return state.Update(ctx, m.State, f.document, func(doc *ledger.Access, _ bool) error { note(&doc.Standing); return nil })
		case strings.HasPrefix(f.document, bucketDocuments):
			return state.Update(ctx, m.State, f.document, func(doc *ledger.Bucket, _ bool) error { note(&doc.Standing); return nil })
		}
		return state.Update(ctx, m.State, f.document, func(doc *ledger.Account, _ bool) error { note(&doc.Standing); return nil })
	})
}

// account sweeps what belongs to no key and no bucket.
func (s look) account(ctx context.Context) error {
	c := s.Whole.Part(s.SweepEvent("sweep/account", s.Start))
	err := s.Skip(s.React(ctx, c, reaction.Reaction{Name: "account", Decide: account}))
	for _, gap := range c.StorageRead().Value.Gaps() {
		s.Note(func(t *ledger.SweepTotals) { t.NoteUnread("how storage is encrypted", errors.New(gap)) })
	}
	return err
}
