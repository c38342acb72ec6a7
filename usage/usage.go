// Package usage says what was done with a KMS key, from CloudTrail's records: counts by
// operation, principal, service, address and resource, and what is unusual against the
// time before.
//
// A [Collector] takes records in any order, from the log files of a trail
// ([Collector.ReadFiles]) or from CloudTrail's event history ([Collector.LookUp]), and makes
// a [Table] of them. Whatever a caller chooses (encryption contexts, session names) is a
// claim of the caller's, and any text.
package usage

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// Schema is the schema of a Table as JSON.
const Schema = "cmkeeper.usage.v1"

// Table is what was done with a key in a time.
type Table struct {
	Schema string `json:"schema"`
	// Key is the key's ARN. The time is From, inclusive, to To, exclusive.
	Key  string    `json:"key"`
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Calls are all calls for the key, Failed those that were refused.
	Calls  int64 `json:"calls"`
	Failed int64 `json:"failed"`
	// Outside are the calls outside business hours; nil where none are configured.
	Outside *int64 `json:"outside_business_hours,omitempty"`
	// First and Last are when the first and the last call was; zero where there was none.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`

	// The rows are sorted, the most calls first.
	Operations []Row `json:"operations"`
	// Principals are ARNs of users and of sessions, Roles the roles behind the sessions.
	Principals []Row `json:"principals"`
	Roles      []Row `json:"roles"`
	// Services are those that called on behalf of somebody (invokedBy).
	Services []Row `json:"services"`
	// Addresses are source addresses, or services' names.
	Addresses []Row `json:"addresses"`
	// Resources are what encryption contexts named, objects by their buckets.
	Resources []Row `json:"resources"`
	// Failures are the error codes of the calls that were refused.
	Failures []Row `json:"failures"`
	// Days are all days of the time in UTC, also those without a call.
	Days []Day `json:"days"`
	// Unusual is what the time before did not have; nil where nothing is known of it.
	Unusual []Unusual `json:"unusual"`
	// Before says what Unusual compares with, or why there is nothing to compare with.
	Before string `json:"before"`

	Source Source `json:"source"`
}

// Callers are who made the calls: the roles, and the principals that are no sessions of a
// role, which have a new name each time. The most calls come first.
func (t Table) Callers() []Row {
	rows := slices.DeleteFunc(slices.Clone(t.Principals), func(r Row) bool { return session(r.Name) })
	rows = append(rows, t.Roles...)
	sortRows(rows)
	return rows
}

// Row counts the calls that have something in common.
type Row struct {
	Name   string    `json:"name"`
	Calls  int64     `json:"calls"`
	Failed int64     `json:"failed"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// Day counts the calls of a day.
type Day struct {
	Date   string `json:"date"`
	Calls  int64  `json:"calls"`
	Failed int64  `json:"failed"`
}

// Source says where the records are from.
type Source struct {
	// Name is CloudTrail's event history, or a folder.
	Name string `json:"name"`
	// Files, Records and Repeated count what was read; a record that comes twice counts once.
	Files    int64 `json:"files,omitempty"`
	Records  int64 `json:"records"`
	Repeated int64 `json:"repeated,omitempty"`
	// MayLackSince is the time since when calls may be missing, because CloudTrail may not
	// show them yet; zero where the table ends before.
	MayLackSince time.Time `json:"may_lack_since,omitzero"`
	// Unread is what could not be read, with the reason: the table may lack calls then.
	Unread []string `json:"unread,omitempty"`
	// UnreadMore is how many more there are.
	UnreadMore int64 `json:"unread_more,omitempty"`
}

// Err returns why the table may lack calls: how many files or records could not be read, and
// the first; nil where all were read. Without a call in the table nobody is known to have
// made none, then.
func (s Source) Err() error {
	switch n := int64(len(s.Unread)) + s.UnreadMore; n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("the table may lack calls; not read: %s", s.Unread[0])
	default:
		return fmt.Errorf("the table may lack calls; %d files or records were not read, the first: %s", n, s.Unread[0])
	}
}

// Others is the name of the row of what is not counted by itself, because there are too
// many different ones.
const Others = "(others)"

const (
	// maxRows bounds the different values of a kind that are counted by themselves.
	maxRows = 50_000
	// maxSeen bounds how many records are remembered, to know one that comes twice: twice
	// this number, of 16 bytes each.
	maxSeen   = 500_000
	maxUnread = 20
	// hidden is how long CloudTrail may not show a call: it takes about 5 minutes on average
	// and promises no time (CloudTrail User Guide, "How CloudTrail works"); 15 is what AWS
	// used to name as the most.
	hidden = 15 * time.Minute
)

// Collector counts the uses of a key. It is safe for concurrent use.
type Collector struct {
	key, id          string
	before, from, to time.Time
	outside          func(time.Time) bool
	only             func(events.Event) bool // nil for all

	mu          sync.Mutex
	now, former counts
	source      Source
	short       string // why the time before is shorter than the time
	// seen and seenBefore are two generations of the ids of records.
	seen, seenBefore map[[16]byte]struct{}
}

// NewCollector returns a collector for a key, by its ARN, and the calls from a time,
// inclusive, to another, exclusive. The calls of as long a time before that are counted to
// compare with. outside says whether a time is outside business hours; nil: there are none.
func NewCollector(keyARN string, from, to time.Time, outside func(time.Time) bool) *Collector {
	from, to = from.UTC(), to.UTC()
	return &Collector{
		key: keyARN, id: arn.KeyID(keyARN), before: from.Add(-to.Sub(from)), from: from, to: to, outside: outside,
		now: newCounts(), former: newCounts(), seen: map[[16]byte]struct{}{},
	}
}

// Only has the collector count only the calls for which keep returns true, which is never
// called concurrently. It is set before anything is added.
func (c *Collector) Only(keep func(events.Event) bool) { c.only = keep }

// Add counts a record, if it is about the key and of the time.
func (c *Collector) Add(record []byte) {
	if !bytes.Contains(record, []byte(c.id)) {
		c.mu.Lock()
		c.source.Records++
		c.mu.Unlock()
		return
	}
	u, err := events.Parse(record)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.source.Records++
	switch {
	case err != nil:
		c.unread(fmt.Sprintf("a record: %v", err))
	case u.KeyARN != c.key && u.OtherKeyARN != c.key:
	case u.Time.Before(c.before) || !u.Time.Before(c.to):
	case c.repeated(u.RecordID):
		c.source.Repeated++
	case c.only != nil && !c.only(u):
	case u.Time.Before(c.from):
		c.former.add(c, u)
	default:
		c.now.add(c, u)
	}
}

// repeated reports whether a record was added before, as far as is remembered.
func (c *Collector) repeated(id string) bool {
	var known [16]byte
	if copy(known[:], strings.ReplaceAll(id, "-", "")) < 16 { // half of a UUID is enough
		return false
	}
	if _, ok := c.seen[known]; ok {
		return true
	}
	if _, ok := c.seenBefore[known]; ok {
		return true
	}
	if len(c.seen) >= maxSeen {
		c.seen, c.seenBefore = map[[16]byte]struct{}{}, c.seen
	}
	c.seen[known] = struct{}{}
	return false
}

func (c *Collector) unread(what string) {
	if len(c.source.Unread) < maxUnread {
		c.source.Unread = append(c.source.Unread, what)
		return
	}
	c.source.UnreadMore++
}

// noteFile notes that a file was read, or why not.
func (c *Collector) noteFile(f File, _ int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.source.Files++
	if err != nil {
		c.unread(f.Name + ": " + err.Error())
	}
}

// begin notes that reading begins now.
func (c *Collector) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if since := time.Now().UTC().Add(-hidden).Truncate(time.Second); since.Before(c.to) {
		c.source.MayLackSince = since
	}
}

// Name names the source of the records.
func (c *Collector) Name(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.source.Name = name
}

// counts are the calls of a time.
type counts struct {
	total, outside int64
	failed         int64
	first, last    time.Time
	by             [dimensions]map[string]*Row
	days           map[string]*Day
}

// What calls are counted by.
const (
	byOperation = iota
	byPrincipal
	byRole
	byService
	byAddress
	byNetwork
	byResource
	byFailure
	dimensions
)

func newCounts() counts {
	n := counts{days: map[string]*Day{}}
	for i := range n.by {
		n.by[i] = map[string]*Row{}
	}
	return n
}

func (n *counts) add(c *Collector, u events.Event) {
	n.total++
	failed := int64(0)
	if u.Failed() {
		failed = 1
	}
	n.failed += failed
	if c.outside != nil && c.outside(u.Time) {
		n.outside++
	}
	if n.first.IsZero() || u.Time.Before(n.first) {
		n.first = u.Time
	}
	if u.Time.After(n.last) {
		n.last = u.Time
	}
	date := u.Time.Format(time.DateOnly)
	d := n.days[date]
	if d == nil {
		d = &Day{Date: date}
		n.days[date] = d
	}
	d.Calls, d.Failed = d.Calls+1, d.Failed+failed

	a := u.Actor
	n.count(byOperation, u.Name, u, failed)
	n.count(byPrincipal, cmp.Or(a.ARN, a.PrincipalID, a.String(), "unknown"), u, failed)
	n.count(byRole, a.RoleARN, u, failed)
	n.count(byService, a.InvokedBy, u, failed)
	n.count(byAddress, u.SourceIP, u, failed)
	n.count(byNetwork, network(u.SourceIP), u, failed)
	n.count(byFailure, u.ErrorCode, u, failed)
	for _, r := range c.resources(u) {
		n.count(byResource, r, u, failed)
	}
}

// resources are what the contexts of a call with the key name, each once; objects by their
// bucket, since there may be millions.
func (c *Collector) resources(u events.Event) (names []string) {
	for _, r := range dependents.Named(u, c.key) {
		if r.Kind == dependents.KindObject {
			r.Kind = dependents.KindBucket
			r.ID, _, _ = strings.Cut(r.ID, "/")
		}
		if name := r.Kind + " " + r.ID; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// count counts a call by one thing; "" is nothing to count by.
func (n *counts) count(by int, name string, u events.Event, failed int64) {
	if name == "" {
		return
	}
	rows := n.by[by]
	row := rows[name]
	if row == nil && len(rows) >= maxRows {
		name = Others
		row = rows[name]
	}
	if row == nil {
		name = strings.Clone(name) // which is a part of the whole record
		row = &Row{Name: name, First: u.Time, Last: u.Time}
		rows[name] = row
	}
	row.Calls, row.Failed = row.Calls+1, row.Failed+failed
	if u.Time.Before(row.First) {
		row.First = u.Time
	}
	if u.Time.After(row.Last) {
		row.Last = u.Time
	}
}

// network is the network of an address: its /24, of IPv6 its /48; "" for a service's name.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	bits := 24
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		bits = 48
	}
	net, err := ip.Prefix(bits)
	if err != nil {
		return ""
	}
	return net.String()
}

// Table returns what was counted.
func (c *Collector) Table() Table {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := &c.now
	t := Table{
		Schema: Schema, Key: c.key, From: c.from, To: c.to, Calls: n.total, Failed: n.failed, First: n.first, Last: n.last,
		Operations: n.rows(byOperation), Principals: n.rows(byPrincipal), Roles: n.rows(byRole), Services: n.rows(byService),
		Addresses: n.rows(byAddress), Resources: n.rows(byResource), Failures: n.rows(byFailure), Source: c.source,
	}
	if c.outside != nil {
		t.Outside = &n.outside
	}
	t.Source.Unread = slices.Sorted(slices.Values(t.Source.Unread))
	for at := c.from.Truncate(day); at.Before(c.to); at = at.Add(day) {
		d := Day{Date: at.Format(time.DateOnly)}
		if found := n.days[d.Date]; found != nil {
			d = *found
		}
		t.Days = append(t.Days, d)
	}
	t.Unusual, t.Before = c.unusual()
	return t
}

func (n *counts) rows(by int) []Row {
	rows := make([]Row, 0, len(n.by[by]))
	for _, r := range n.by[by] {
		rows = append(rows, *r)
	}
	sortRows(rows)
	return rows
}

func sortRows(rows []Row) {
	slices.SortFunc(rows, func(a, b Row) int { return cmp.Or(cmp.Compare(b.Calls, a.Calls), cmp.Compare(a.Name, b.Name)) })
}
