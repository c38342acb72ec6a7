package confirm

import (
	"encoding/json"
	"time"
)

const (
	pageSize = 50
	// margin is what a look-up for many adds to both ends of its time. It is short, since
	// the time in a message is that of the record itself, to the second, and a key in
	// use may have hundreds of records a second.
	margin = 2 * time.Second
)

// lookup is one request: for one question, or for many.
type lookup struct {
	attribute, value string
	from, to         int64 // the times of the oldest and newest question, if it is for many
	first            *question
	all              []*question // first, too
}

func byID(q *question) lookup {
	return lookup{attribute: "EventId", value: q.id, first: q, all: []*question{q}}
}

// request is LookupEvents' input.
type request struct {
	LookupAttributes   []attribute
	StartTime, EndTime int64 `json:",omitempty"` // seconds since 1970
	MaxResults         int
}

type attribute struct{ AttributeKey, AttributeValue string }

// request is limited to the times of the questions, unless it is for one: that needs no
// time, and finds its record whatever time was claimed. trail is the time of AWS.
func (l lookup) request(trail time.Time) request {
	in := request{LookupAttributes: []attribute{{l.attribute, l.value}}, MaxResults: pageSize}
	if l.from == 0 {
		return in
	}
	// Whether a time to come is accepted is not documented; no EndTime is now.
	const more = int64(margin / time.Second)
	in.StartTime = min(l.from-more, trail.Unix())
	if end := l.to + more; end < trail.Unix() {
		in.EndTime = end
	}
	return in
}

// page is LookupEvents' answer: the newest events, as many as fit.
type page struct {
	Events []struct {
		EventTime       float64 // seconds since 1970
		CloudTrailEvent string  // the record
	}
	NextToken string
}

// covers reports whether the page has the question's record if CloudTrail has it. The
// next page is not asked for: what it would have is asked for when it is its turn.
func (p page) covers(l lookup, q *question) bool {
	if p.NextToken == "" || l.from == 0 {
		return true
	}
	return len(p.Events) > 0 && float64(q.at) > p.Events[len(p.Events)-1].EventTime+margin.Seconds()
}

// records returns the records of the page by the eventID that each of them has.
// CloudTrail finds them by that, but the record itself is what will be used.
func (p page) records() map[string]string {
	records := map[string]string{}
	for _, e := range p.Events {
		var record struct {
			EventID string `json:"eventID"`
		}
		if json.Unmarshal([]byte(e.CloudTrailEvent), &record) == nil {
			records[record.EventID] = e.CloudTrailEvent
		}
	}
	return records
}

// settle takes an answer: it keeps the records that were asked for, and notes which are
// not there. now is the time here, and trail that of AWS.
func (r *Records) settle(l lookup, p page, now, trail time.Time) {
	records := p.records()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range r.questions.found(records) {
		r.found.put(id, records[id])
	}
	if l.attribute == "ResourceName" {
		return // the record of a call that was denied names no resource, so all are still due
	}
	for _, q := range l.all {
		if p.covers(l, q) {
			q.notFound(now, trail)
		} else if q == l.first {
			r.questions.alone = q
		}
	}
}
