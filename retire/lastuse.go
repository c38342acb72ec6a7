package retire

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/usage"
)

// Trail is CloudTrail: Call calls an operation of its API. *awsclient.JSON is one.
type Trail interface {
	Call(ctx context.Context, operation string, in, out any) error
}

// Jobs lists the jobs of the fleet; *reencrypt.Engine does.
type Jobs interface {
	Jobs(ctx context.Context, ended bool) ([]reencrypt.Summary, error)
}

// user is what is known of who made the last use of a key.
type user struct {
	// record is the caller as CloudTrail's record of the use names it. Without a record,
	// why says why there is none.
	record, why string
	// name is "role/NAME" or "user/NAME" of that caller, "" for one of another account.
	name string
	// jobs are those of the fleet that worked with the key at that time, as far as they
	// could be read; jobsUnread says why not all could.
	jobs       []reencrypt.Summary
	jobsUnread string
}

// clocks is more than the clocks of KMS and of the fleet's workers differ by.
const clocks = time.Minute

// jobs are those of the fleet, as far as they can be read.
func (c Checker) jobs(ctx context.Context) ([]reencrypt.Summary, error) {
	if c.Jobs == nil {
		return nil, nil
	}
	return c.Jobs.Jobs(ctx, true)
}

// lastUser finds out who made the last use of a key. What cannot be found out is in the answer.
func (c Checker) lastUser(ctx context.Context, key inventory.Key, usage inventory.Usage, jobs []reencrypt.Summary, jobsErr error) (user, error) {
	u := user{jobs: workingWith(jobs, key.ARN, usage.At, time.Now())}
	if jobsErr != nil {
		u.jobsUnread = jobsErr.Error()
	}
	switch {
	case c.Trail == nil:
		u.why = "CloudTrail is not asked here"
		return u, nil
	case usage.EventID == "":
		u.why = "KMS does not name the event"
		return u, nil
	}
	var page struct {
		Events []struct{ CloudTrailEvent string }
	}
	type attribute struct{ AttributeKey, AttributeValue string }
	err := c.Trail.Call(ctx, "LookupEvents", struct{ LookupAttributes []attribute }{[]attribute{{"EventId", usage.EventID}}}, &page)
	if ctx.Err() != nil {
		return u, context.Cause(ctx)
	}
	if err != nil {
		u.why = fmt.Sprintf("CloudTrail cannot be asked (%v); that takes cloudtrail:LookupEvents", err)
		return u, nil
	}
	u.why = "CloudTrail does not show the event; it shows one some minutes after the use, for 90 days"
	for _, found := range page.Events {
		e, err := events.Parse([]byte(found.CloudTrailEvent))
		if err != nil || e.RecordID != usage.EventID {
			continue
		}
		u.record, u.why = cmp.Or(e.Actor.String(), "a caller without a name"), ""
		u.name = nameIn(key.Account, e.Actor)
	}
	return u, nil
}

// Uses are the uses of a key that CloudTrail's event history has, but for those that jobs of
// the fleet made. CloudTrail shows a use some minutes later, so it may lack the newest.
type Uses struct {
	// Since is the time since which they are known: the oldest that was asked for, or a later
	// one where the key is too busy for a few requests.
	Since time.Time `json:"since"`
	// Calls are the uses, by Callers and by Resources as the callers named them.
	Calls     int64       `json:"calls"`
	Callers   []usage.Row `json:"callers"`
	Resources []usage.Row `json:"resources"`
	// Own are how many jobs of the fleet made.
	Own int64 `json:"own,omitempty"`
	// Unknown is why nothing is known, or why older uses are not; "" where all are.
	Unknown string `json:"unknown,omitempty"`
}

// maxLookUps is how many requests CloudTrail is sent about the uses of a key, a second each,
// with 50 events each.
const maxLookUps = 3

// lookUp asks CloudTrail's event history who used the key within the quiet time.
func (c Checker) lookUp(ctx context.Context, key inventory.Key, jobs []reencrypt.Summary) (*Uses, error) {
	if c.Trail == nil {
		return nil, nil
	}
	now := time.Now().UTC().Truncate(time.Second)
	var u Uses
	all := usage.NewCollector(key.ARN, now.Add(-c.Quiet), now.Add(time.Second), nil)
	all.Only(func(e events.Event) bool {
		switch {
		case !e.IsUse(), e.Time.Before(now.Add(-c.Quiet)):
			return false
		case user{name: nameIn(key.Account, e.Actor), jobs: workingWith(jobs, key.ARN, e.Time, now)}.isOwn():
			u.Own++
			return false
		}
		return true
	})
	err := all.LookUp(ctx, c.Trail, maxLookUps, nil)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	t := all.Table()
	u.Since, u.Calls, u.Callers, u.Resources = t.From, t.Calls, t.Callers(), t.Resources
	switch {
	case err != nil:
		u.Unknown = err.Error()
	case t.Source.Err() != nil:
		u.Unknown = "the key is so busy that older ones were not looked up"
	}
	return &u, nil
}

// isOwn reports whether a job of the fleet made the use.
func (u user) isOwn() bool {
	_, own := u.ownJob()
	return own
}

// shownRows is how many callers and resources are named in a line.
const shownRows = 5

// text says who the others were, and for what they used the key.
func (u *Uses) text() string {
	switch {
	case u == nil:
		return ""
	case u.Calls == 0 && u.Unknown != "":
		return " Whether others used it is not known: " + u.Unknown + "."
	case u.Calls == 0:
		return " CloudTrail's event history, some minutes late, shows no use by others since " + u.Since.Format(time.RFC3339) + "."
	}
	text := fmt.Sprintf(" CloudTrail's event history shows %d uses since %s by others than jobs of cmkeeper: %s.", u.Calls, u.Since.Format(time.RFC3339), rowsText(u.Callers))
	if len(u.Resources) > 0 {
		text += " They named what they used it for: " + rowsText(u.Resources) + "."
	}
	if u.Unknown != "" {
		text += " There may be more: " + u.Unknown + "."
	}
	return text
}

func rowsText(rows []usage.Row) string {
	var texts []string
	for _, r := range rows[:min(len(rows), shownRows)] {
		text := fmt.Sprintf("%s (%d, the last at %s", r.Name, r.Calls, r.Last.Format(time.RFC3339))
		if r.Failed > 0 {
			text += fmt.Sprintf(", %d refused", r.Failed)
		}
		texts = append(texts, text+")")
	}
	if more := len(rows) - shownRows; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, ", ")
}

// nameIn is the role behind a session, or the user; "" for one of another account.
func nameIn(account string, a events.Actor) string {
	switch {
	case a.AccountID != account:
		return ""
	case a.RoleARN != "":
		return "role/" + arn.Parse(a.RoleARN).Name()
	case a.Type == "IAMUser":
		return "user/" + a.Name
	}
	return ""
}

// workingWith returns the jobs that ran at a time and move objects from the key or to it.
func workingWith(jobs []reencrypt.Summary, key string, at, now time.Time) []reencrypt.Summary {
	return slices.DeleteFunc(slices.Clone(jobs), func(j reencrypt.Summary) bool {
		end := j.Finished
		if end.IsZero() {
			end = now
		}
		return j.To != key && !slices.Contains(j.From, key) || at.Before(j.Started.Add(-clocks)) || at.After(end.Add(clocks))
	})
}

// ownJob returns the job in whose work the use was made: CloudTrail's record names the
// role that the job worked as, when it worked with the key.
func (u user) ownJob() (job reencrypt.Summary, proved bool) {
	i := slices.IndexFunc(u.jobs, func(j reencrypt.Summary) bool { return u.name != "" && slices.Contains(j.By, u.name) })
	if i < 0 {
		return reencrypt.Summary{}, false
	}
	return u.jobs[i], true
}

// judgeUsage judges the last use. KMS shows no other: where that was surely the fleet's own,
// it hides when others used the key, so that is unknown, and never nothing.
func judgeUsage(f facts, quiet time.Duration, now time.Time, r *Result, tie, maybe func(id, what, fix string)) {
	if f.usage == nil { // it is among the unknowns
		return
	}
	r.LastUse = f.usage.String()
	if quiet == 0 || now.Sub(f.usage.At) >= quiet { // 0: also by a clock that is behind KMS's
		return
	}
	days := int(quiet / (24 * time.Hour))
	what := fmt.Sprintf("The key was last used by %s, less than %d days ago.", r.LastUse, days)
	look := command.Line("cmkeeper usage %s --days %s", command.Key(f.key.ARN), command.Number(max(1, days)))
	r.Uses = f.uses
	others := f.uses != nil && f.uses.Calls > 0
	if job, proved := f.user.ownJob(); proved {
		what += fmt.Sprintf(" That was cmkeeper itself: CloudTrail's record names %s, when job %s moved objects between this key and another.", f.user.record, job.Job)
		if !others {
			what += " KMS shows only the last use, so it is not known when others used the key."
			maybe("last-use", what+f.uses.text(),
				fmt.Sprintf("Wait %d days. Or look for other callers in CloudTrail, and accept last-use where there are none: %s", days, look))
			return
		}
	} else if f.user.record != "" {
		what += " CloudTrail's record of it names " + f.user.record + "."
	} else if f.user.why != "" {
		what += " Who that was is not known: " + f.user.why + "."
	}
	if len(f.user.jobs) > 0 && f.user.record == "" {
		what += fmt.Sprintf(" Job %s moved objects between this key and another at that time, so it was probably cmkeeper, which is no proof.", f.user.jobs[0].Job)
	}
	if len(f.user.jobs) == 0 && f.user.jobsUnread != "" {
		what += " Whether a job of cmkeeper ran at that time is not known: " + f.user.jobsUnread + "."
	}
	tie("last-use", what+f.uses.text(), "Find the callers in CloudTrail, and wait: "+look)
}
