package review

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/access"
	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
)

// accessUnread names that it is not known who may use the keys.
const accessUnread = "access-unread"

// accessListed is how many findings an alert names.
const accessListed = 10

// accessKinds are the kinds of findings that are told, and their titles: of a principal and a
// key, and of a number and a key.
var accessKinds = map[finding.ID]struct{ one, several string }{
	finding.AssumableFromOutside: {"Somebody outside the account may assume %s, which has key %s", "%d ways for somebody outside the account to assume a role that has key %s"},
	finding.SelfGrant:            {"%s can give itself the use of key %s", "%d principals can give themselves the use of key %s"},
	finding.TagGrant:             {"%s can tag its way to key %s", "%d principals can tag their way to key %s"},
}

// byKind divides findings, the worst first, by their kinds, those of which are told.
func byKind(found []finding.Finding) map[string][]finding.Finding {
	kinds := map[string][]finding.Finding{}
	for _, f := range found {
		if _, told := accessKinds[f.ID]; told {
			kinds[f.ID.String()] = append(kinds[f.ID.String()], f)
		}
	}
	return kinds
}

// whoOf names what a finding is about: a principal, or who may become one and what that can
// do.
func whoOf(f finding.Finding) string {
	if f.ID == finding.AssumableFromOutside {
		return f.Message
	}
	return f.Principal
}

// accessWatch watches who can come to a key, by a review of it.
type accessWatch struct {
	found map[string][]finding.Finding
	// whole: everything that matters could be read. first: it is the account's first review.
	whole, first bool
	// read is when IAM was.
	read time.Time
}

// decide decides what is told of the key.
func (w accessWatch) decide(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	doc, err := c.AccessLedger(ctx)
	if err != nil {
		return nil, err
	}
	doc.Key, doc.Aliases = c.Event.KeyARN, nil
	if aliases, err := c.KeyAliases(ctx); err == nil {
		doc.Aliases = reaction.AliasNames(aliases)
	}
	live := w.dangers(c, &doc.Standing)
	return c.Watch(ctx, reaction.Watch{
		Thing:    "access-" + arn.KeyID(c.Event.KeyARN),
		Live:     func() []reaction.Danger { return live },
		Looked:   func(string) bool { return w.whole },
		Standing: func() *ledger.Standing { return &doc.Standing },
		Update: func(change func(*ledger.Standing)) reaction.Told {
			return reaction.Told{Access: func(a *ledger.Access) { change(&a.Standing) }}
		},
		Key:   func() *alert.Key { return c.DescribeKey() },
		Meets: func(context.Context) (bool, error) { return w.first, nil },
	})
}

// dangers are what was found of the key, one for each kind. known is what is known of it.
func (w accessWatch) dangers(c *reaction.Case, known *ledger.Standing) (all []reaction.Danger) {
	for _, name := range slices.Sorted(maps.Keys(w.found)) {
		found := w.found[name]
		var who []string
		for _, f := range found {
			who = append(who, whoOf(f))
		}
		d := reaction.Danger{Name: name, Count: len(found), Who: ledger.WhoOf(who)}
		d.Alert = w.alert(c, name, found, known.Of(name))
		all = append(all, d)
	}
	return all
}

// alert is about all findings of one kind; before is what people know of them, nil for nothing.
func (w accessWatch) alert(c *reaction.Case, name string, found []finding.Finding, before *ledger.Open) alert.Alert {
	a := c.NewAlert(alert.KindPolicy, "")
	worst := found[0]
	a.Severity, a.Dangers, a.Key = worst.Severity, []string{name}, c.DescribeKey()
	var added []string
	if before != nil && before.Alert != "" {
		var fresh, others []finding.Finding
		for _, f := range found {
			if before.Misses(whoOf(f)) {
				fresh, added = append(fresh, f), append(added, arn.Parse(f.Principal).Resource)
			} else {
				others = append(others, f)
			}
		}
		found = slices.Concat(fresh, others)
	}
	a.Findings = found[:min(len(found), accessListed)]
	titles, key := accessKinds[worst.ID], reaction.ShortName(a.Key)
	a.Title = fmt.Sprintf(titles.one, arn.Parse(worst.Principal).Resource, key)
	if len(found) > 1 {
		a.Title = fmt.Sprintf(titles.several, len(found), key)
	}
	a.Summary = "The daily access review found this in the account's IAM, the key policy and the grants; no event has reported it. While it lasts, another alert comes only if there are others or more. Service control policies are not seen: they may forbid it all the same."
	a.Risk = finding.Risk(a.Findings)
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper found it as it stands, and leaves it. It does not change IAM."}
	a.Next = []string{
		"Everybody who can come to the key, by which statement, and what could not be seen:",
		command.Line("cmkeeper access %s", command.Key(c.Event.KeyARN)),
		"Ask the key's owner whether the principals in the findings are meant to. If one is not:",
		worst.ID.Rule().Fix,
		"If you do not know a principal, find out whether the key was used by it:",
		c.TrailCommand(),
	}
	source := "IAM, read at " + reaction.TimeText(w.read)
	if len(added) > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "new since the review before", Source: source, Values: shown(added)})
	}
	if more := len(found) - len(a.Findings); more > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "not listed", Source: source, Values: []string{fmt.Sprintf("%d more, which the command above shows", more)}})
	}
	return a
}

// shown are some names, and how many more there are.
func shown(names []string) []string {
	if more := len(names) - accessListed; more > 0 {
		return append(slices.Clone(names[:accessListed]), fmt.Sprintf("and %d more", more))
	}
	return names
}

// tellIAM tells that the account's IAM cannot be read, for that reason, or that it can again.
func (r *review) tellIAM(ctx context.Context, unread error) error {
	if unread != nil {
		r.Logger.WarnContext(ctx, "who may use the keys cannot be reviewed", "error", unread)
	} else if len(r.doc.Standing.Open) == 0 {
		return nil
	}
	c := r.Whole.Part(r.SweepEvent("sweep/access", r.Start))
	err := r.React(ctx, c, reaction.Reaction{Name: "access", Decide: func(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
		doc, err := c.ReviewLedger(ctx)
		if err != nil {
			return nil, err
		}
		return c.Watch(ctx, reaction.Watch{
			Thing: "access-review",
			Live: func() []reaction.Danger {
				if unread == nil {
					return nil
				}
				return []reaction.Danger{{Name: accessUnread, Alert: accessUnreadAlert(c, unread)}}
			},
			Looked:   func(string) bool { return true },
			Standing: func() *ledger.Standing { return &doc.Standing },
			Update: func(change func(*ledger.Standing)) reaction.Told {
				return reaction.Told{Review: func(a *ledger.AccessReview) { change(&a.Standing) }}
			},
			Meets: func(context.Context) (bool, error) { return false, nil },
		})
	}})
	r.Count(c)
	return err
}

// accessUnreadAlert says that it is not known who may use the keys.
func accessUnreadAlert(c *reaction.Case, why error) alert.Alert {
	a := c.AccountAlert(alert.KindPolicy, finding.Low)
	a.Dangers = []string{accessUnread}
	a.Title = "cmkeeper cannot see who may use the keys"
	a.Summary = "CMKEEPER_ACCESS_REVIEW reads the account's IAM once a day. That failed, so no key is reviewed. Each sweep tries again."
	a.Risk = "A role that somebody outside may assume, or a principal that can give itself a key, is not noticed."
	a.Action.Description = "cmkeeper reads IAM, and changes nothing there."
	a.Next = []string{
		fmt.Sprintf("Let the role of the workers assume the role %s (sts:AssumeRole, and its trust policy), and allow that role %s (docs/operations.md, Permissions); or turn the review off: CMKEEPER_ACCESS_REVIEW=off.", alert.Escape(c.Config.AccessRole), access.Permission),
		command.Line("aws iam get-role --role-name %s", command.Role(arn.Parse(c.Config.AccessRole).Name())),
	}
	reason := why.Error()
	if api, ok := errors.AsType[smithy.APIError](why); ok {
		reason = api.ErrorCode() + ": " + api.ErrorMessage()
	}
	a.Facts = []alert.Fact{{Name: "not read", Source: "IAM, asked at " + reaction.TimeText(c.At), Values: []string{access.Permission + ": " + reason}}}
	return a
}
