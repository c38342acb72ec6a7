package alert

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

// What the state bucket has of groups. A period is a stretch of time in which a group
// was not quiet; a window is a part of it whose alerts are published as one digest.
// Stored documents, messages and logs name a window "slot".
//
//	groups/open/<group>.json               the window that is open now
//	groups/due/<slot>.json                 a window that has not been published yet
//	groups/<group>/<period>/marks/….json   what was published at once, see marks
//	groups/<group>/<period>/<slot>/….json  the alerts, one object each, the worst first
const (
	groupsPrefix = "groups/"
	duePrefix    = groupsPrefix + "due/"
)

const (
	// windowMargin is how long after its close a window is published, and half of it how late
	// an alert may still be stored in it. It is far above what S3's clocks differ by.
	windowMargin = 6 * time.Second
	// scheduleAttempts bounds how often an alert is scheduled again because another was faster.
	scheduleAttempts = 10
	// readsAtOnce is how many alerts of a window are read at a time.
	readsAtOnce = 16
	// upgradeTime is how long a window waits for a newer worker to read what one stored.
	upgradeTime = 15 * time.Minute
)

// SQS is what Grouping calls; *sqs.Client has it.
type SQS interface {
	SendMessage(context.Context, *sqs.SendMessageInput, ...func(*sqs.Options)) (*sqs.SendMessageOutput, error)
}

// Grouping makes one message of what one actor, or a sweep, did in quick succession.
type Grouping struct {
	// SQS and QueueURL are the queue for the messages that remind of a window's close.
	// Its consumer passes those that FlushWindow recognises to Publisher.Flush.
	SQS      SQS
	QueueURL string
	// Wait is how long the first alert below high is collected with others, Interval
	// how long all others are: positive, and at most 10 minutes.
	Wait, Interval time.Duration
}

// window is a window of a group: the document behind groups/open and groups/due.
type window struct {
	ID     string `json:"id"`
	Group  string `json:"group"`
	Period string `json:"period"`
	// Name and Short are the group's.
	Name  string `json:"name"`
	Short string `json:"short"`
	// Started is when the period began, Closes when the window does, by S3's clock.
	Started time.Time `json:"started"`
	Closes  time.Time `json:"closes"`
}

// Schema names the document.
func (*window) Schema() (string, int) { return "slot", 1 }

func openKey(g group) string           { return groupsPrefix + "open/" + g.id + ".json" }
func dueKey(id string) string          { return duePrefix + state.Segment(id) + ".json" }
func (w *window) period() string       { return groupsPrefix + w.Group + "/" + w.Period + "/" }
func (w *window) marks() string        { return w.period() + "marks/" }
func (w *window) mark(m string) string { return w.marks() + m + ".json" }
func (w *window) items() string        { return w.period() + w.ID + "/" }
func (w *window) due() time.Time       { return w.Closes.Add(windowMargin) }
func (w *window) incidentID() string   { return "incident/" + w.Period }
func (w *window) item(n string, a Alert) string {
	return w.items() + a.weight() + "-" + strings.TrimPrefix(n, alertsPrefix) + ".json"
}

// item is an alert in a window.
type item struct {
	Alert Alert `json:"alert"`
	// Name is that of its claim.
	Name string `json:"name"`
	// AtOnce: it is published on its own, by the worker that stored it or, if that one
	// died, with the window.
	AtOnce bool `json:"at_once,omitempty"`
}

// Schema names the document.
func (*item) Schema() (string, int) { return "grouped-alert", 1 }

// mark is the document behind a mark. Only an incident's has content; for the others the
// name suffices.
type mark struct {
	// Incident is the incident's alert, and Listed are the alerts in it, by their claims.
	Incident *Alert   `json:"incident,omitempty"`
	Listed   []string `json:"listed,omitempty"`
}

// Schema names the document.
func (*mark) Schema() (string, int) { return "group-mark", 1 }

// publishGrouped publishes the alert at once or stores it for a digest.
func (p *Publisher) publishGrouped(ctx context.Context, name string, a Alert, g group) error {
	log := p.logger().With("alert", name, "kind", a.Kind)
	return p.once(ctx, log, name, p.repeatAfter(a), func(bounded context.Context) error {
		scheduled, err := p.schedule(bounded, name, a, g)
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("group alert: %w", err)
			}
			// An alert must not depend on what groups it.
			log.WarnContext(ctx, "alert cannot be grouped and is published at once", "error", err)
			return p.publishOrStore(ctx, bounded, log, name, a)
		}
		log.DebugContext(ctx, "alert grouped", "group", Escape(g.name), "reason", scheduled.reason, "slot", scheduled.window.ID)
		switch scheduled.reason {
		case scheduleIncident: // its mark has it published with the window if this fails
			return p.deliver(ctx, scheduled.incidentName, scheduled.incident)
		case scheduleFirst:
			err := p.publishOrStore(ctx, bounded, log, name, scheduled.alert)
			if err != nil { // the next attempt is at once, too
				for _, m := range append(scheduled.notes, scheduled.claim) {
					if m == scheduled.claim || strings.HasPrefix(m, markNamed) {
						p.deleteMark(ctx, log, scheduled.window.mark(m))
					}
				}
			}
			return err
		case scheduleCollect:
			p.count(a, "collected")
			log.InfoContext(ctx, "alert collected", "severity", a.Severity, "event", Escape(a.EventName), "status", a.Action.Status, "title", Escape(a.Title), "slot", scheduled.window.ID)
		}
		return nil
	})
}

// deleteMark deletes the mark of an alert that could not be published.
func (p *Publisher) deleteMark(ctx context.Context, log *slog.Logger, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := p.Store.Delete(ctx, key, ""); err != nil {
		log.WarnContext(ctx, "mark of an alert that was not published cannot be deleted", "key", key, "error", err)
	}
}

// scheduled is when an alert is published, and what.
type scheduled struct {
	scheduleDecision
	window *window
	// alert is what is published at once.
	alert Alert
	// incident is published instead where the alert made one.
	incident     Alert
	incidentName string
}

// schedule stores the alert in its group's open window. One that is to be published at
// once is stored as such, so that it is published with the window if the worker dies.
func (p *Publisher) schedule(ctx context.Context, name string, a Alert, g group) (scheduled, error) {
	for range scheduleAttempts {
		w, err := p.openWindow(ctx, g, a)
		if err != nil {
			return scheduled{}, err
		}
		m, err := p.readMarks(ctx, w)
		if err != nil {
			return scheduled{}, err
		}
		d := decideSchedule(a, m)
		if d.claim != "" {
			_, err := p.Store.Put(ctx, w.mark(d.claim), &mark{}, "")
			if errors.Is(err, state.ErrConflict) {
				continue // another alert was faster: look again
			}
			if err != nil {
				return scheduled{}, fmt.Errorf("mark group: %w", err)
			}
		}
		out := scheduled{scheduleDecision: d, window: w, alert: a}
		if m[markIncident] {
			out.alert = continued(a, w)
		}
		if d.last {
			out.alert.Summary += " Further sensitive keys of this group are not told one by one: the table of the next digest has them, before all others."
		}
		switch err := p.store(ctx, w, name, out.alert, d); {
		case errors.Is(err, errTooLate):
			continue
		case err != nil:
			return scheduled{}, err
		}
		if d.reason != scheduleIncident {
			return out, nil
		}
		made, err := p.makeIncident(ctx, &out, a, g)
		if err != nil || made {
			return out, err
		}
		out.reason = scheduleCollect // another alert made it
		return out, nil
	}
	return scheduled{}, fmt.Errorf("group alert: others were faster in %d attempts", scheduleAttempts)
}

// errTooLate says that a window closed while an alert was being stored in it.
var errTooLate = errors.New("window closed meanwhile")

// store stores an alert and its marks in the window.
func (p *Publisher) store(ctx context.Context, w *window, name string, a Alert, d scheduleDecision) error {
	for _, note := range d.notes {
		if _, err := p.Store.Put(ctx, w.mark(note), &mark{}, ""); err != nil && !errors.Is(err, state.ErrConflict) {
			return fmt.Errorf("mark group: %w", err)
		}
	}
	key := w.item(name, a)
	err := state.Update(ctx, p.Store, key, func(i *item, _ bool) error { // an earlier attempt may have stored it otherwise
		*i = item{Alert: a.bounded(), Name: name, AtOnce: d.reason == scheduleFirst}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store alert in window: %w", err)
	}
	if d.reason != scheduleFirst && p.Store.Now().After(w.Closes.Add(windowMargin/2)) {
		// The window may have been read before: the alert counts as not stored.
		if err := p.Store.Delete(ctx, key, ""); err != nil {
			return fmt.Errorf("take alert out of window: %w", err)
		}
		return errTooLate
	}
	return nil
}

// openWindow returns the group's open window, opening one if there is none. Its reminder
// is sent before it opens.
func (p *Publisher) openWindow(ctx context.Context, g group, a Alert) (*window, error) {
	for range scheduleAttempts {
		var w window
		etag, err := p.Store.Get(ctx, openKey(g), &w)
		if err != nil && !errors.Is(err, state.ErrNotFound) {
			return nil, fmt.Errorf("read open window: %w", err)
		}
		now := p.Store.Now().UTC().Round(0)
		if etag != "" && now.Before(w.Closes) {
			return &w, nil
		}
		next, length := p.nextWindow(w, g, a, now)
		if err := p.remind(ctx, next, length+windowMargin); err != nil {
			return nil, err
		}
		if _, err := p.Store.Put(ctx, dueKey(next.ID), next, ""); err != nil {
			return nil, fmt.Errorf("open window: %w", err)
		}
		_, err = p.Store.Put(ctx, openKey(g), next, etag)
		if err == nil {
			return next, nil
		}
		if !errors.Is(err, state.ErrConflict) {
			return nil, fmt.Errorf("open window: %w", err)
		}
		// Another alert was faster. Our window stays empty, and its reminder removes it.
	}
	return nil, fmt.Errorf("open window: %d others were faster", scheduleAttempts)
}

// nextWindow is the window after last, which may be the zero window, and how long it is open.
func (p *Publisher) nextWindow(last window, g group, a Alert, now time.Time) (*window, time.Duration) {
	w := &window{ID: now.Format("20060102T150405Z") + "-" + rand.Text()[:10], Group: g.id, Period: last.Period, Name: g.name, Short: g.short, Started: last.Started}
	length := p.Grouping.Interval
	if last.Period == "" || now.Sub(last.Closes) >= quiet || now.Sub(last.Started) >= longestPeriod {
		w.Period, w.Started = w.ID, now
		if !a.Severity.AtLeast(finding.High) {
			length = p.Grouping.Wait
		}
	}
	w.Closes = now.Add(length)
	return w, length
}

// flushMessage reminds of a window.
type flushMessage struct {
	Schema string `json:"schema"`
	Window string `json:"slot"`
}

const flushSchema = "cmkeeper.flush.v1"

// remind sends the message that has a window published.
func (p *Publisher) remind(ctx context.Context, w *window, after time.Duration) error {
	body, err := json.Marshal(flushMessage{flushSchema, w.ID})
	if err != nil {
		return err
	}
	_, err = p.Grouping.SQS.SendMessage(ctx, &sqs.SendMessageInput{
		QueueUrl: &p.Grouping.QueueURL, MessageBody: aws.String(string(body)), DelaySeconds: int32(math.Ceil(after.Seconds())),
	})
	if err != nil {
		return fmt.Errorf("send reminder of window: %w", err)
	}
	return nil
}

// FlushWindow returns the window that a message reminds of, and whether it is such a message.
func FlushWindow(body []byte) (window string, ok bool) {
	var m flushMessage
	if !bytes.Contains(body, []byte(flushSchema)) || json.Unmarshal(body, &m) != nil {
		return "", false
	}
	return m.Window, m.Schema == flushSchema && m.Window != ""
}

// readMarks returns the marks of a window's period.
func (p *Publisher) readMarks(ctx context.Context, w *window) (marks, error) {
	m := marks{}
	for key, err := range p.Store.Keys(ctx, w.marks()) {
		if err != nil {
			return nil, fmt.Errorf("read marks of group: %w", err)
		}
		m[strings.TrimSuffix(strings.TrimPrefix(key, w.marks()), ".json")] = true
	}
	return m, nil
}

// makeIncident makes an incident of the period's alerts, unless that has been done. Its
// mark contains it, so that it is published even if the worker dies.
func (p *Publisher) makeIncident(ctx context.Context, out *scheduled, last Alert, g group) (made bool, err error) {
	w := out.window
	var keys []string
	for key, err := range p.Store.Keys(ctx, w.period()) {
		if err != nil {
			return false, fmt.Errorf("list alerts of group: %w", err)
		}
		if !strings.HasPrefix(key, w.marks()) {
			keys = append(keys, key)
		}
	}
	slices.SortStableFunc(keys, func(a, b string) int { // the worst first, whatever their window
		return strings.Compare(a[strings.LastIndexByte(a, '/'):], b[strings.LastIndexByte(b, '/'):])
	})
	m, all := &mark{}, &gathered{}
	for i, err := range p.items(ctx, keys[:min(len(keys), digestRows)]) {
		switch {
		case errors.Is(err, state.ErrUnreadable): // its window tells
			continue
		case err != nil:
			return false, err
		}
		all.add(i)
		m.Listed = append(m.Listed, i.Name)
	}
	out.incident = incident(last.bounded(), g, w, all, len(keys), p.Store.Address(w.period()))
	if out.incidentName, err = out.incident.name(); err != nil {
		return false, err
	}
	m.Incident = &out.incident
	_, err = p.Store.Put(ctx, w.mark(markIncident), m, "")
	if errors.Is(err, state.ErrConflict) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("record incident: %w", err)
	}
	return true, nil
}

// items reads items, in the order of their keys and some at a time; one that is gone is
// left out. One that is state.ErrUnreadable does not end the sequence, any other error does.
func (p *Publisher) items(ctx context.Context, keys []string) iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		for some := range slices.Chunk(keys, readsAtOnce) {
			items, errs := make([]item, len(some)), make([]error, len(some))
			var wg sync.WaitGroup
			for n, key := range some {
				wg.Go(func() { _, errs[n] = p.Store.Get(ctx, key, &items[n]) })
			}
			wg.Wait()
			for n, err := range errs {
				if errors.Is(err, state.ErrNotFound) {
					continue
				}
				if err != nil {
					err = fmt.Errorf("read alert of group: %w", err)
				}
				if !yield(items[n], err) || err != nil && !errors.Is(err, state.ErrUnreadable) {
					return
				}
			}
		}
	}
}

// Flush publishes the alerts of a window that has closed. A window that is not due yet
// is an outcome.RetryAfter. For one that was published, or does not exist, it does nothing:
// messages that come twice, late or forged do no harm.
func (p *Publisher) Flush(ctx context.Context, id string) error {
	var w window
	_, err := p.Store.Get(ctx, dueKey(id), &w)
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read window: %w", err)
	}
	if wait := w.due().Sub(p.Store.Now()); wait > 0 {
		return outcome.RetryAfter(wait, fmt.Errorf("window %s is still open", w.ID))
	}
	if err := p.flush(ctx, &w); err != nil {
		return fmt.Errorf("publish window %s of group %s: %w", w.ID, w.Name, err)
	}
	if err := p.Store.Delete(ctx, dueKey(id), ""); err != nil {
		return fmt.Errorf("close window: %w", err)
	}
	return nil
}

// flush publishes what a window has: what was to be published at once and was not, and
// the rest as a digest.
func (p *Publisher) flush(ctx context.Context, w *window) error {
	var unread []error
	var m mark
	switch _, err := p.Store.Get(ctx, w.mark(markIncident), &m); {
	case errors.Is(err, state.ErrUnreadable):
		unread, m = append(unread, err), mark{}
	case err != nil && !errors.Is(err, state.ErrNotFound):
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
	listed := map[string]bool{}
	for _, name := range m.Listed {
		listed[name] = true
	}
	var keys []string
	for key, err := range p.Store.Keys(ctx, w.items()) {
		if err != nil {
			return fmt.Errorf("list alerts: %w", err)
		}
		keys = append(keys, key)
	}
	rest := &gathered{}
	for i, err := range p.items(ctx, keys) {
		switch {
		case errors.Is(err, state.ErrUnreadable):
			unread = append(unread, err)
		case err != nil:
			return err
		case i.AtOnce:
			if err := p.deliver(ctx, i.Name, i.Alert); err != nil {
				return err
			}
		case !listed[i.Name]:
			rest.add(i)
		}
	}
	if err := errors.Join(unread...); errors.Is(err, state.ErrNewerSchema) && p.Store.Now().Sub(w.due()) < upgradeTime {
		return outcome.RetryAfter(time.Minute, err)
	}
	if len(unread) > 0 {
		if err := p.tellUnread(ctx, w, unread); err != nil {
			return err
		}
	}
	if rest.all == 0 {
		return nil
	}
	a := digest(w, rest, m.Incident != nil, p.Store.Address(w.items()))
	name, err := Alert{ID: "digest/" + w.ID}.name()
	if err != nil {
		return err
	}
	return p.deliver(ctx, name, a)
}

// tellUnread publishes one alert for a window about its stored alerts that cannot be read.
// Nothing else reports them.
func (p *Publisher) tellUnread(ctx context.Context, w *window, unread []error) error {
	p.logger().WarnContext(ctx, "stored alerts cannot be read and are left out of the digest", "slot", w.ID, "alerts", len(unread), "first", unread[0])
	a := Alert{
		ID: "unreadable/" + w.ID, Kind: KindGuard, Severity: finding.High, Time: p.Store.Now().UTC(),
		Title:   fmt.Sprintf("Alerts about %s cannot be read (%d)", w.Short, len(unread)),
		Summary: fmt.Sprintf("cmkeeper stored alerts about %s for a digest and cannot read them now. The digest is sent without them.", w.Name),
		Risk:    "What they say reaches people only if somebody reads the stored objects.",
		Action:  Action{Status: StatusNone, Description: "cmkeeper left the objects as they are."},
		Next:    []string{"Read the objects below. If workers of different versions run at the same time, finish the upgrade. If not, find out who wrote the objects."},
	}
	f := Fact{Name: "what cannot be read"}
	for _, err := range unread[:min(len(unread), 50)] {
		f.Values = append(f.Values, err.Error())
	}
	a.Facts = []Fact{f}
	name, err := a.name()
	if err != nil {
		return err
	}
	return p.deliver(ctx, name, a)
}

// Collected is a window that is not published yet.
type Collected struct {
	// Group is whose alerts are in it, Alerts how many.
	Group  string `json:"group"`
	Alerts int    `json:"alerts"`
	// Due is when it is published.
	Due time.Time `json:"due"`
}

// Collected returns the windows that are not published yet. With an error that is
// state.ErrUnreadable, which names what cannot be read, come the others.
func (p *Publisher) Collected(ctx context.Context) ([]Collected, error) {
	var list []Collected
	var unread []error
	for w, err := range state.Documents[window](ctx, p.Store, duePrefix) {
		c := Collected{Group: w.Name, Due: w.due()}
		if err == nil {
			for _, err = range p.Store.Keys(ctx, w.items()) {
				c.Alerts++
			}
		}
		switch {
		case err == nil:
			list = append(list, c)
		case errors.Is(err, state.ErrUnreadable):
			unread = append(unread, err)
		default:
			return nil, err
		}
	}
	return list, errors.Join(unread...)
}

// overdue returns the ids of the windows that are not published yet.
func (p *Publisher) overdue(ctx context.Context) ([]string, error) {
	var ids []string
	for key, err := range p.Store.Keys(ctx, duePrefix) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, strings.TrimSuffix(strings.TrimPrefix(key, duePrefix), ".json"))
	}
	return ids, nil
}
