package events

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// accepted ends every error about a body of the wrong shape: it is the fix.
const accepted = "want an EventBridge event, a CloudTrail record, or an SNS notification of one"

// Parse decodes a message body: the forms in the package comment, and a
// {"Records": […]} that holds exactly one. It never panics, and it keeps no
// reference to body. The strings of the event share one copy of it: clone what is
// kept for long.
//
// Events of other services and unknown names are parsed, not refused: see
// [Event.IsKMS]. A field of an unexpected type is left zero, since AWS changes
// its records without notice and an event is only a hint; but what identifies
// the occurrence (name, source, time, Region, id) must be there and valid.
//
// Every error means that the body is no event and never will be. It says what is
// wrong and never quotes the body.
func Parse(body []byte) (Event, error) {
	e, err := parse(string(body), true)
	if err != nil {
		return Event{}, fmt.Errorf("events: %w", err)
	}
	return e, nil
}

// parse decodes text. A message of a message is opened once only: nothing real
// is nested deeper.
func parse(text string, open bool) (Event, error) {
	s := scan(text)
	m := s.message()
	if err := s.end(); err != nil {
		return Event{}, fmt.Errorf("decode message: %w: %s", err, accepted)
	}
	switch {
	case m.DetailType != "":
		return m.event()
	case m.EventName != "":
		r := scan(text).record() // known to be well formed
		return r.event(&message{})
	case m.TopicARN != "" && m.Type == "Notification" && open:
		e, err := parse(m.Message, false)
		if err != nil {
			return Event{}, fmt.Errorf("open SNS notification: %w", err)
		}
		return e, nil
	case m.TopicARN != "" && m.Type != "" && m.Type != "Notification":
		return Event{}, fmt.Errorf("SNS message of type %.40q is no event: if the topic's subscription is pending, confirm it", m.Type)
	case len(m.Records) == 1 && open:
		return parse(m.Records[0], false)
	case len(m.Records) > 1:
		return Event{}, fmt.Errorf("message holds %d records: send one a message, so that each succeeds or fails by itself", len(m.Records))
	}
	return Event{}, errors.New("message is no event: " + accepted)
}

// event decodes an EventBridge event.
func (m *message) event() (Event, error) {
	if strings.HasSuffix(m.DetailType, " via CloudTrail") {
		return m.Detail.event(m)
	}
	e := Event{
		ID:      m.ID,
		Kind:    Native,
		Name:    m.DetailType,
		Source:  m.Source,
		Account: m.Account,
		Region:  m.Region,
	}
	var err error
	if e.Time, err = parseTime("time", m.Time); err != nil {
		return Event{}, err
	}
	if err := e.complete(); err != nil {
		return Event{}, err
	}
	switch m.Source {
	case "aws.events", "aws.scheduler":
		e.Kind = Scheduled
		if len(m.Resources) > 0 {
			e.Detail = Schedule{ARN: m.Resources[0], Name: arn.Parse(m.Resources[0]).Name()}
		}
	case SourceNative:
		e.KeyARN = firstOf(firstKeyARN(m.Resources), e.keyARN(m.Detail.Native.KeyID))
		e.Detail = m.Detail.detail(e.Source, e.Name)
	}
	return e, nil
}

// parseTime reads an RFC 3339 time. There is no fallback: a made-up time would
// make an old fact look new.
func parseTime(field, value string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s %.40q is not an RFC 3339 time", field, value)
	}
	if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("%s %.40q is outside of the years that RFC 3339 can write", field, value)
	}
	return t, nil
}

// complete checks what every event must have.
func (e Event) complete() error {
	var missing []string
	for _, f := range []struct{ name, value string }{
		{"id", e.ID}, {"name", e.Name}, {"source", e.Source}, {"region", e.Region}, {"account", e.Account},
	} {
		if f.value == "" {
			missing = append(missing, f.name)
		}
	}
	if missing != nil {
		return fmt.Errorf("event has no %s: %s", strings.Join(missing, ", "), accepted)
	}
	return nil
}
