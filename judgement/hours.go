package judgement

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Hours are when people work. The zero value is always.
type Hours struct {
	// days are in the order of the week, from Monday.
	days [7]bool
	// from and to are minutes of the day; to is not part of it.
	from, to int
	zone     *time.Location
}

var weekdays = []string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}

// ParseHours reads DAYS FROM-TO ZONE: "Mon-Fri 08:00-18:00 Europe/Berlin", or
// "Sun-Thu,Sat 07:30-24:00 UTC". It looks the zone up where package time does.
func ParseHours(s string) (Hours, error) {
	words := strings.Fields(s)
	if len(words) != 3 {
		return Hours{}, errors.New("must be DAYS FROM-TO ZONE, such as Mon-Fri 08:00-18:00 Europe/Berlin")
	}
	h, err := parseDays(words[0])
	if err != nil {
		return Hours{}, err
	}
	from, to, _ := strings.Cut(words[1], "-")
	var okFrom, okTo bool
	h.from, okFrom = parseMinute(from)
	h.to, okTo = parseMinute(to)
	if !okFrom || !okTo || h.from >= h.to {
		return Hours{}, fmt.Errorf("%q must be two times of one day, the earlier one first, such as 08:00-18:00", words[1])
	}
	// "Local" would be another one on each machine.
	if h.zone, err = time.LoadLocation(words[2]); err != nil || words[2] == "Local" {
		return Hours{}, fmt.Errorf("%q is no time zone: write UTC, or a name such as Europe/Berlin", words[2])
	}
	return h, nil
}

func parseDays(s string) (Hours, error) {
	var h Hours
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from := slices.Index(weekdays, first)
		to := from
		if isRange {
			to = slices.Index(weekdays, last)
		}
		if from < 0 || to < 0 {
			return h, fmt.Errorf("%q is no day and no range of days: write Mon, Tue, Wed, Thu, Fri, Sat or Sun, such as Mon-Fri or Mon,Wed", part)
		}
		for day := from; ; day = (day + 1) % 7 {
			h.days[day] = true
			if day == to {
				break
			}
		}
	}
	return h, nil
}

// parseMinute reads 00:00 to 24:00 as a minute of the day.
func parseMinute(s string) (int, bool) {
	if s == "24:00" {
		return 24 * 60, true
	}
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err == nil
}

// String is the hours as ParseHours reads them, "" for always.
func (h Hours) String() string {
	if h.zone == nil {
		return ""
	}
	var days []string
	for i, works := range h.days {
		if works {
			days = append(days, weekdays[i])
		}
	}
	return fmt.Sprintf("%s %02d:%02d-%02d:%02d %s", strings.Join(days, ","), h.from/60, h.from%60, h.to/60, h.to%60, h.zone)
}

// Include reports whether people work at t.
func (h Hours) Include(t time.Time) bool {
	if h.zone == nil {
		return true
	}
	t = t.In(h.zone)
	minute := t.Hour()*60 + t.Minute()
	return h.days[(t.Weekday()+6)%7] && h.from <= minute && minute < h.to
}
