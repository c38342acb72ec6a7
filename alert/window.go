package alert

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

// What the state bucket keeps of groups. A period is a stretch of time in which a
// group was not quiet; a slot is a part of it whose alerts are told together.
//
//	groups/open/<group>.json               the slot that is open now
//	groups/due/<slot>.json                 a slot that has not been told yet
//	groups/<group>/<period>/marks/….json   what was told at once, see marks
//	groups/<group>/<period>/<slot>/….json  the alerts, one object each, the worst first
const groupsPrefix = "groups/"

const (
	// slotMargin is how long after a slot closed it is told, and half of it how late
	// an alert may still be stored in it. It is far above what S3's clocks differ by.
	slotMargin = 6 * time.Second
	// placeAttempts bounds how often an alert looks for its place among others.
	placeAttempts = 5
	// readsAtOnce is how many alerts of a slot are read at a time.
	readsAtOnce = 16
	// incidentRows is how many alerts an incident lists, the worst first.
	incidentRows = 1000
)

// SQS is what Grouping calls; *sqs.Client has it.
type SQS interface {
	SendMessage(context.Context, *sqs.SendMessageInput, ...func(*sqs.Options)) (*sqs.SendMessageOutput, error)
}

// Grouping makes one message of what one actor, or a sweep, did in quick succession.
type Grouping struct {
	// SQS and QueueURL are the queue that reminds of a slot which closes. Its
	// consumer gives the messages that FlushSlot recognises to Publisher.Flush.
	SQS      SQS
	QueueURL string
	// Wait is how long the first alert below high is collected with others, Interval
	// how long all others are: positive, and at most 10 minutes.
	Wait, Interval time.Duration
}

// slot is a slot of a group: the document behind groups/open and groups/due.
type slot struct {
	ID     string `json:"id"`
	Group  string `json:"group"`
	Period string `json:"period"`
	// Name and Short are the group's.
	Name  string `json:"name"`
	Short string `json:"short"`
	// Started is when the period began, Closes when the slot does, by S3's clock.
	Started time.Time `json:"started"`
	Closes  time.Time `json:"closes"`
}

// Schema names the document.
func (*slot) Schema() (string, int) { return "slot", 1 }

func openKey(g group) string         { return groupsPrefix + "open/" + g.id + ".json" }
func dueKey(id string) string        { return groupsPrefix + "due/" + state.Segment(id) + ".json" }
func (s *slot) period() string       { return groupsPrefix + s.Group + "/" + s.Period + "/" }
func (s *slot) marks() string        { return s.period() + "marks/" }
func (s *slot) mark(m string) string { return s.marks() + m + ".json" }
func (s *slot) items() string        { return s.period() + s.ID + "/" }
func (s *slot) due() time.Time       { return s.Closes.Add(slotMargin) }
func (s *slot) incidentID() string   { return "incident/" + s.Period }
func (s *slot) item(n string, a Alert) string {
	return s.items() + strconv.Itoa(finding.Critical.Rank()-a.Severity.Rank()) + "-" + strings.TrimPrefix(n, alertsPrefix) + ".json"
}

// item is an alert in a slot.
type item struct {
	Alert Alert `json:"alert"`
	// Name is what it is claimed by.
	Name string `json:"name"`
	// AtOnce: it is told on its own, by whoever stored it or, if that one died, by
	// whoever tells the slot.
	AtOnce bool `json:"at_once,omitempty"`
}

// Schema names the document.
func (*item) Schema() (string, int) { return "grouped-alert", 1 }

// mark is the document behind a mark, whose name says it all, but for an incident's.
type mark struct {
	// Incident is the incident's alert, and Listed are the alerts in it, by their claims.
	Incident *Alert   `json:"incident,omitempty"`
	Listed   []string `json:"listed,omitempty"`
}

// Schema names the document.
func (*mark) Schema() (string, int) { return "group-mark", 1 }

// publishGrouped tells the alert at once or stores it to be told with others.
func (p *Publisher) publishGrouped(ctx context.Context, name string, a Alert, g group) error {
	log := p.logger().With("alert", name, "kind", a.Kind)
	return p.once(ctx, log, name, p.again(a), func(bounded context.Context) error {
		placed, err := p.place(bounded, name, a, g)
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("group alert: %w", err)
			}
			// The alarm must not hang on what groups it.
			log.WarnContext(ctx, "alert cannot be grouped, so it is told at once", "error", err)
			return p.tellOrKeep(ctx, bounded, log, name, a)
		}
		log.DebugContext(ctx, "alert grouped", "group", Escape(g.name), "reason", placed.reason, "slot", placed.slot.ID)
		switch placed.reason {
		case placeIncident: // its mark says that it is to be told: whatever fails, the slot makes up for it
			return p.deliver(ctx, placed.incidentName, placed.incident)
		case placeFirst:
			err := p.tellOrKeep(ctx, bounded, log, name, placed.alert)
			if err != nil {
				p.forget(ctx, log, placed.slot.mark(placed.claim)) // so that the next try is at once, too
			}
			return err
		case placeCollect:
			log.InfoContext(ctx, "alert collected", "severity", a.Severity, "event", Escape(a.EventName), "status", a.Action.Status, "title", Escape(a.Title), "slot", placed.slot.ID)
		}
		return nil
	})
}

// forget deletes what an attempt left that came to nothing.
func (p *Publisher) forget(ctx context.Context, log *slog.Logger, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := p.Store.Delete(ctx, key, ""); err != nil {
		log.WarnContext(ctx, "what an attempt left cannot be deleted", "key", key, "error", err)
	}
}

// placed is where an alert went.
type placed struct {
	placeDecision
	slot *slot
	// alert is what is told at once.
	alert Alert
	// incident is told instead where the alert made one.
	incident     Alert
	incidentName string
}

// place stores the alert in its group's open slot. Where it is to be told at once that
// is only noted there: whoever tells the slot makes up for one who dies before.
func (p *Publisher) place(ctx context.Context, name string, a Alert, g group) (placed, error) {
	for range placeAttempts {
		s, err := p.openSlot(ctx, g, a)
		if err != nil {
			return placed{}, err
		}
		m, err := p.readMarks(ctx, s)
		if err != nil {
			return placed{}, err
		}
		d := decidePlace(a, m)
		if d.claim != "" {
			_, err := p.Store.Put(ctx, s.mark(d.claim), &mark{}, "")
			if errors.Is(err, state.ErrConflict) {
				continue // another alert was faster: look again
			}
			if err != nil {
				return placed{}, fmt.Errorf("mark group: %w", err)
			}
		}
		out := placed{placeDecision: d, slot: s, alert: a}
		if m[markIncident] {
			out.alert = continued(a, s)
		}
		switch err := p.store(ctx, s, name, out.alert, d); {
		case errors.Is(err, errTooLate):
			continue
		case err != nil:
			return placed{}, err
		}
		if d.reason != placeIncident {
			return out, nil
		}
		made, err := p.makeIncident(ctx, &out, a, g)
		if err != nil || made {
			return out, err
		}
		out.reason = placeCollect // another alert made it
		return out, nil
	}
	return placed{}, fmt.Errorf("group alert: no place found in %d attempts", placeAttempts)
}

// errTooLate says that a slot closed while an alert was being stored in it.
var errTooLate = errors.New("slot closed meanwhile")

// store stores an alert and what is noted of it in the slot.
func (p *Publisher) store(ctx context.Context, s *slot, name string, a Alert, d placeDecision) error {
	for _, note := range d.notes {
		if _, err := p.Store.Put(ctx, s.mark(note), &mark{}, ""); err != nil && !errors.Is(err, state.ErrConflict) {
			return fmt.Errorf("mark group: %w", err)
		}
	}
	key := s.item(name, a)
	err := state.Update(ctx, p.Store, key, func(i *item, _ bool) error { // an earlier try may have stored it otherwise
		*i = item{Alert: a, Name: name, AtOnce: d.reason == placeFirst}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store alert in slot: %w", err)
	}
	if d.reason != placeFirst && p.Store.Now().After(s.Closes.Add(slotMargin/2)) {
		// Whoever tells the slot may have looked before: it counts as not stored.
		if err := p.Store.Delete(ctx, key, ""); err != nil {
			return fmt.Errorf("take alert out of slot: %w", err)
		}
		return errTooLate
	}
	return nil
}

// openSlot returns the group's open slot, opening one if there is none. Whoever opens
// one has first seen to it that it is told.
func (p *Publisher) openSlot(ctx context.Context, g group, a Alert) (*slot, error) {
	for range placeAttempts {
		var s slot
		etag, err := p.Store.Get(ctx, openKey(g), &s)
		if err != nil && !errors.Is(err, state.ErrNotFound) {
			return nil, fmt.Errorf("read open slot: %w", err)
		}
		now := p.Store.Now().UTC().Round(0)
		if etag != "" && now.Before(s.Closes) {
			return &s, nil
		}
		next, length := p.nextSlot(s, g, a, now)
		if err := p.remind(ctx, next, length+slotMargin); err != nil {
			return nil, err
		}
		if _, err := p.Store.Put(ctx, dueKey(next.ID), next, ""); err != nil {
			return nil, fmt.Errorf("open slot: %w", err)
		}
		_, err = p.Store.Put(ctx, openKey(g), next, etag)
		if err == nil {
			return next, nil
		}
		if !errors.Is(err, state.ErrConflict) {
			return nil, fmt.Errorf("open slot: %w", err)
		}
		// Another alert was faster. What is due of ours is nothing, and goes with its reminder.
	}
	return nil, fmt.Errorf("open slot: %d others were faster", placeAttempts)
}

// nextSlot is the slot after last, which may be the zero slot, and how long it is open.
func (p *Publisher) nextSlot(last slot, g group, a Alert, now time.Time) (*slot, time.Duration) {
	s := &slot{ID: now.Format("20060102T150405Z") + "-" + rand.Text()[:10], Group: g.id, Period: last.Period, Name: g.name, Short: g.short, Started: last.Started}
	length := p.Grouping.Interval
	if last.Period == "" || now.Sub(last.Closes) >= quiet || now.Sub(last.Started) >= longestPeriod {
		s.Period, s.Started = s.ID, now
		if !a.Severity.AtLeast(finding.High) {
			length = p.Grouping.Wait
		}
	}
	s.Closes = now.Add(length)
	return s, length
}

// flushMessage reminds of a slot.
type flushMessage struct {
	Schema string `json:"schema"`
	Slot   string `json:"slot"`
}

const flushSchema = "cmkeeper.flush.v1"

// remind sends the message that has a slot told.
func (p *Publisher) remind(ctx context.Context, s *slot, after time.Duration) error {
	body, err := json.Marshal(flushMessage{flushSchema, s.ID})
	if err != nil {
		return err
	}
	_, err = p.Grouping.SQS.SendMessage(ctx, &sqs.SendMessageInput{
		QueueUrl: &p.Grouping.QueueURL, MessageBody: aws.String(string(body)), DelaySeconds: int32(math.Ceil(after.Seconds())),
	})
	if err != nil {
		return fmt.Errorf("send reminder of slot: %w", err)
	}
	return nil
}

// FlushSlot returns the slot that a message reminds of, and whether it is such a message.
func FlushSlot(body []byte) (slot string, ok bool) {
	var m flushMessage
	if !bytes.Contains(body, []byte(flushSchema)) || json.Unmarshal(body, &m) != nil {
		return "", false
	}
	return m.Slot, m.Schema == flushSchema && m.Slot != ""
}

// readMarks returns what is noted of a slot's period.
func (p *Publisher) readMarks(ctx context.Context, s *slot) (marks, error) {
	m := marks{}
	for key, err := range p.Store.Keys(ctx, s.marks()) {
		if err != nil {
			return nil, fmt.Errorf("read marks of group: %w", err)
		}
		m[strings.TrimSuffix(strings.TrimPrefix(key, s.marks()), ".json")] = true
	}
	return m, nil
}

// makeIncident makes an incident of the period's alerts, unless that has been done. Its
// mark holds it, so that from then on it will be told, whoever dies.
func (p *Publisher) makeIncident(ctx context.Context, out *placed, last Alert, g group) (made bool, err error) {
	s := out.slot
	var keys []string
	for key, err := range p.Store.Keys(ctx, s.period()) {
		if err != nil {
			return false, fmt.Errorf("list alerts of group: %w", err)
		}
		if !strings.HasPrefix(key, s.marks()) {
			keys = append(keys, key)
		}
	}
	slices.SortStableFunc(keys, func(a, b string) int { // the worst first, whatever their slot
		return strings.Compare(a[strings.LastIndexByte(a, '/'):], b[strings.LastIndexByte(b, '/'):])
	})
	items, err := p.read(ctx, keys[:min(len(keys), incidentRows)])
	if err != nil {
		return false, err
	}
	out.incident = incident(last, g, s, items, len(keys), p.Store.Address(s.period()))
	if out.incidentName, err = out.incident.name(); err != nil {
		return false, err
	}
	m := &mark{Incident: &out.incident}
	for _, i := range items {
		m.Listed = append(m.Listed, i.Name)
	}
	_, err = p.Store.Put(ctx, s.mark(markIncident), m, "")
	if errors.Is(err, state.ErrConflict) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("record incident: %w", err)
	}
	return true, nil
}

// read reads items, some at a time; one that is gone is left out.
func (p *Publisher) read(ctx context.Context, keys []string) ([]item, error) {
	all := make([]item, len(keys))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readsAtOnce)
	for i, key := range keys {
		g.Go(func() error {
			if _, err := p.Store.Get(ctx, key, &all[i]); err != nil && !errors.Is(err, state.ErrNotFound) {
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("read alerts of group: %w", err)
	}
	return slices.DeleteFunc(all, func(i item) bool { return i.Name == "" }), nil
}

// Flush tells the alerts of a slot that has closed. A slot that is not due yet is an
// outcome.RetryAfter; one that was told, or never was, is nothing to do: messages that
// come twice, late or from somebody else do no harm.
func (p *Publisher) Flush(ctx context.Context, id string) error {
	var s slot
	_, err := p.Store.Get(ctx, dueKey(id), &s)
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read slot: %w", err)
	}
	if wait := s.due().Sub(p.Store.Now()); wait > 0 {
		return outcome.RetryAfter(wait, fmt.Errorf("slot %s is still open", s.ID))
	}
	if err := p.flush(ctx, &s); err != nil {
		return fmt.Errorf("tell slot %s of group %s: %w", s.ID, s.Name, err)
	}
	if err := p.Store.Delete(ctx, dueKey(id), ""); err != nil {
		return fmt.Errorf("close slot: %w", err)
	}
	return nil
}

// flush tells what a slot holds: what somebody was to tell at once and did not, and
// then the rest together.
func (p *Publisher) flush(ctx context.Context, s *slot) error {
	var keys []string
	for key, err := range p.Store.Keys(ctx, s.items()) {
		if err != nil {
			return fmt.Errorf("list alerts: %w", err)
		}
		keys = append(keys, key)
	}
	items, err := p.read(ctx, keys)
	if err != nil {
		return err
	}
	var m mark
	_, err = p.Store.Get(ctx, s.mark(markIncident), &m)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return fmt.Errorf("read incident: %w", err)
	}
	if m.Incident != nil {
		name, err := m.Incident.name()
		if err != nil {
			return err
		}
		if err := p.deliver(ctx, name, *m.Incident); err != nil {
			return err
		}
	}
	var rest []item
	for _, i := range items {
		switch {
		case i.AtOnce:
			if err := p.deliver(ctx, i.Name, i.Alert); err != nil {
				return err
			}
		case !slices.Contains(m.Listed, i.Name):
			rest = append(rest, i)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	a := digest(s, rest, m.Incident != nil, p.Store.Address(s.items()))
	name, err := Alert{ID: "digest/" + s.ID}.name()
	if err != nil {
		return err
	}
	return p.deliver(ctx, name, a)
}

// Collected is a slot that is not told yet.
type Collected struct {
	// Group is whose alerts are in it, Alerts how many.
	Group  string `json:"group"`
	Alerts int    `json:"alerts"`
	// Due is when it is told.
	Due time.Time `json:"due"`
}

// Collected returns the slots that are not told yet.
func (p *Publisher) Collected(ctx context.Context) ([]Collected, error) {
	ids, err := p.overdue(ctx)
	if err != nil {
		return nil, err
	}
	var list []Collected
	for _, id := range ids {
		var s slot
		_, err := p.Store.Get(ctx, dueKey(id), &s)
		if errors.Is(err, state.ErrNotFound) {
			continue // told since it was listed
		}
		if err != nil {
			return nil, err
		}
		c := Collected{Group: s.Name, Due: s.due()}
		for _, err := range p.Store.Keys(ctx, s.items()) {
			if err != nil {
				return nil, err
			}
			c.Alerts++
		}
		list = append(list, c)
	}
	return list, nil
}

// overdue returns the slots that are not told yet.
func (p *Publisher) overdue(ctx context.Context) ([]string, error) {
	var ids []string
	for key, err := range p.Store.Keys(ctx, groupsPrefix+"due/") {
		if err != nil {
			return nil, err
		}
		ids = append(ids, strings.TrimSuffix(strings.TrimPrefix(key, groupsPrefix+"due/"), ".json"))
	}
	return ids, nil
}
