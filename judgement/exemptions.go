package judgement

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Exemption leaves some occurrences as they are, with no more than a note, for a time
// and with a reason. It reads
//
//	rotation, policy of alias/legacy-* until 2027-03-31: the vendor cannot rotate
//	anything of tag env=sandbox until 2026-12-31: nobody depends on it
//	deletion by role/break-glass until 2026-12-01: the yearly drill
type Exemption struct {
	// Kinds are what it is limited to; none is anything.
	Kinds []string
	// Of picks the keys, or By the actors: one of them is set.
	Of *Selector
	By *Principals
	// Last is the day, UTC, at whose end it ceases to hold.
	Last time.Time
	// Reason is for people.
	Reason string
}

// Exemptions is a list of exemptions.
type Exemptions []Exemption

// anything is the word for all kinds.
const anything = "anything"

// ParseExemptions reads entries that are separated by semicolons, each as the
// doc of Exemption shows. kinds are the words allowed before "of" and "by",
// beside "anything". The error names every entry that cannot be read. An entry that has
// expired is not an error; it does not hold.
func ParseExemptions(s string, kinds []string) (Exemptions, error) {
	var all Exemptions
	var errs []error
	for entry := range strings.SplitSeq(s, ";") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		e, err := parseExemption(entry, kinds)
		if err != nil {
			errs = append(errs, fmt.Errorf("exemption %q: %w", entry, err))
			continue
		}
		all = append(all, e)
	}
	return all, errors.Join(errs...)
}

func parseExemption(entry string, kinds []string) (Exemption, error) {
	var e Exemption
	what, rest, hasUntil := strings.Cut(entry, " until ")
	day, reason, hasReason := strings.Cut(rest, ":")
	// The reason becomes part of a sentence.
	e.Reason = strings.TrimRightFunc(strings.TrimSpace(reason), func(c rune) bool { return c == '.' || unicode.IsSpace(c) })
	if !hasUntil || !hasReason || e.Reason == "" {
		return e, errors.New(`must read WHAT of KEYS until DATE: REASON, or WHAT by ACTOR until DATE: REASON, such as "rotation of alias/legacy-* until 2027-03-31: the vendor cannot rotate"`)
	}
	var err error
	if e.Last, err = time.Parse(time.DateOnly, strings.TrimSpace(day)); err != nil {
		return e, fmt.Errorf("its date %q must be a day such as 2027-03-31", strings.TrimSpace(day))
	}
	list, keys, isOf := strings.Cut(what, " of ")
	if !isOf {
		var actors string
		var isBy bool
		if list, actors, isBy = strings.Cut(what, " by "); !isBy {
			return e, errors.New(`says neither of which keys ("of alias/legacy-*", "of tag env=sandbox") nor by whom ("by role/break-glass")`)
		}
		if everything(strings.TrimSpace(actors)) {
			return e, fmt.Errorf("%q is everybody: to exempt everybody, use the mode of the reaction", strings.TrimSpace(actors))
		}
		by, err := ParsePrincipals(actors)
		if err != nil {
			return e, err
		}
		if by.all() {
			return e, fmt.Errorf("%q is everybody: to exempt everybody, use the mode of the reaction", by)
		}
		e.By = &by
	} else {
		if everything(strings.TrimSpace(keys)) {
			return e, fmt.Errorf("%q is every key: to exempt all keys, use the mode of the reaction", strings.TrimSpace(keys))
		}
		of, err := ParseSelector(keys)
		if err != nil {
			return e, err
		}
		if all := of.all(); all != "" {
			return e, fmt.Errorf("%q is %s: to exempt all keys, use the mode of the reaction", of, all)
		}
		e.Of = &of
	}
	if strings.TrimSpace(list) == anything {
		return e, nil
	}
	for kind := range strings.SplitSeq(list, ",") {
		if kind = strings.TrimSpace(kind); !slices.Contains(kinds, kind) {
			return e, fmt.Errorf("%q cannot be exempted: write %s or %s", kind, strings.Join(kinds, ", "), anything)
		}
		e.Kinds = append(e.Kinds, kind)
	}
	return e, nil
}

// String is the exemption as ParseExemptions reads it.
func (e Exemption) String() string {
	return fmt.Sprintf("%s until %s: %s", e.Covers(), e.Until(), e.Reason)
}

// Covers says what is exempt, without until when and why.
func (e Exemption) Covers() string {
	what := anything
	if len(e.Kinds) > 0 {
		what = strings.Join(e.Kinds, ", ")
	}
	if e.By != nil {
		return what + " by " + e.By.String()
	}
	return what + " of " + e.Of.String()
}

// Until is the last day on which it holds, as people write it.
func (e Exemption) Until() string { return e.Last.Format(time.DateOnly) }

// Holds reports whether the exemption has not expired.
func (e Exemption) Holds(now time.Time) bool { return now.Before(e.Last.AddDate(0, 0, 1)) }

// DaysLeft is how many days it holds after the present one; negative when it has
// expired.
func (e Exemption) DaysLeft(now time.Time) int {
	return int(e.Last.Sub(now.UTC().Truncate(24*time.Hour)) / (24 * time.Hour))
}

// Exempts reports whether it is about occurrences of a kind, of any key and actor.
func (e Exemption) Exempts(kind string) bool {
	return len(e.Kinds) == 0 || slices.Contains(e.Kinds, kind)
}

// Find returns the first exemption that holds for an occurrence of a kind, on a
// key, by an actor. Of the key it is to be given only what has lasted.
func (es Exemptions) Find(kind string, key Key, by Actor, now time.Time) (Exemption, bool) {
	for _, e := range es {
		if !e.Exempts(kind) || !e.Holds(now) {
			continue
		}
		if e.By != nil {
			if e.By.Include(by) {
				return e, true
			}
			continue
		}
		if _, ok := e.Of.Picks(key); ok {
			return e, true
		}
	}
	return Exemption{}, false
}

// Any reports whether any of them is about occurrences of a kind.
func (es Exemptions) Any(kind string) bool {
	return slices.ContainsFunc(es, func(e Exemption) bool { return e.Exempts(kind) })
}
