package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/keyreport"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	// fleetKeys is how many keys an account may have for the fleet to make its report: a
	// worker has little memory.
	fleetKeys = 10_000
	// reportClaim is how long the making of a report keeps other workers from it.
	reportClaim = 2 * time.Hour
)

// reportSchedule makes the fleet's report, once in each week of the calendar (ISO 8601,
// UTC) for the whole fleet: at the end of the first sweep that ends in it.
type reportSchedule struct {
	store           *state.Store
	alerts          alert.Sink
	log             *slog.Logger
	account, region string
	make            func(context.Context) (keyreport.Report, error)
	due             chan struct{}
}

// scheduleReports returns what makes the fleet's reports, with this part of KMS's quotas.
// jobs reads its re-encryptions.
func (b byHand) scheduleReports(share float64, alerts alert.Sink, jobs keyreport.Jobs, log *slog.Logger) *reportSchedule {
	return &reportSchedule{
		store: b.store(b.settings.StateBucket), alerts: alerts, log: log, account: b.account, region: b.region, due: make(chan struct{}, 1),
		make: func(ctx context.Context) (keyreport.Report, error) {
			return b.reportOf(ctx, keylist.Options{Most: fleetKeys}, share, jobs)
		},
	}
}

// swept says that a sweep has ended. It does not wait for the report.
func (s *reportSchedule) swept() {
	select {
	case s.due <- struct{}{}:
	default: // it is being made
	}
}

// run makes reports that are due until ctx is done.
func (s *reportSchedule) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.due:
		}
		if err := s.report(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "the scheduled report was not made; the next sweep tries again", "error", err)
		}
	}
}

// report makes the report of the present week, unless the fleet has or is about to.
func (s *reportSchedule) report(ctx context.Context) error {
	year, number := s.store.Now().UTC().ISOWeek()
	week := fmt.Sprintf("%d-W%02d", year, number)
	claim, err := s.store.Claim(ctx, "reports/"+week+"/claim.json", reportClaim)
	if held := new(state.HeldError); errors.Is(err, state.ErrDone) || errors.As(err, &held) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.write(ctx, week); err != nil {
		// Also where ctx is done: nobody else could make it before the claim runs out.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return errors.Join(err, claim.Release(bounded))
	}
	return claim.Done(ctx)
}

// write makes the report, stores it and tells of it.
func (s *reportSchedule) write(ctx context.Context, week string) error {
	r, err := s.make(ctx)
	if errors.Is(err, keylist.ErrTooMany) {
		return s.alerts.Publish(ctx, s.notMade(week, err))
	}
	if err != nil {
		return err
	}
	page, err := s.store.PutBlob(ctx, "reports/"+week+"/report.html", "text/html; charset=utf-8", strings.NewReader(r.Page()))
	if err != nil {
		return err
	}
	// Line by line: a worker has little memory.
	lines, w := io.Pipe()
	go func() { w.CloseWithError(r.OCSF(w)) }()
	findings, err := s.store.PutBlob(ctx, "reports/"+week+"/findings.ocsf.jsonl", "application/jsonl", lines)
	_ = lines.Close() // ends the writer where the reader has given up
	if err != nil {
		return err
	}
	return s.alerts.Publish(ctx, s.made(week, r, page, findings))
}

// alert is what alerts about the report of a week have in common.
func (s *reportSchedule) alert(week string) alert.Alert {
	return alert.Alert{
		ID: "report/" + week, Kind: alert.KindPosture, Severity: finding.Info, EventName: reaction.SweepName, Time: s.store.Now().UTC(),
		Account: s.account, Region: s.region, Action: alert.Action{Status: alert.StatusNone, Description: "The report reads only. cmkeeper changed nothing for it."},
	}
}

// made tells of a report that was stored.
func (s *reportSchedule) made(week string, r keyreport.Report, page, findings string) alert.Alert {
	a, t := s.alert(week), r.Keys.Totals
	open := 0
	var bySeverity, checks []string
	for _, severity := range []finding.Severity{finding.Critical, finding.High, finding.Medium, finding.Low} {
		open += t.Open[severity]
		bySeverity = append(bySeverity, fmt.Sprintf("%s: %d", severity, t.Open[severity]))
	}
	for _, c := range r.Checks {
		checks = append(checks, fmt.Sprintf("%s, %s: %s. %s", c.ID, c.Title, c.Status, c.Summary))
	}
	a.Title = fmt.Sprintf("The keys in week %s: %d customer managed keys, %d open dangers", week, t.Customer, open)
	a.Summary = fmt.Sprintf("%d keys have nothing wrong with them, %d could not be judged wholly, and %d dangers are exempt.", t.Clean, t.NotJudged, t.Exempt)
	if share, known := t.Rotation.Share(); known {
		a.Summary += fmt.Sprintf(" Of the keys that can rotate, %.1f %% do so in time.", share*100)
	}
	a.Next = []string{"Read the report in the state bucket, with your own access to it: " + page}
	a.Facts = []alert.Fact{
		{Name: "report", Source: "state bucket", Values: []string{page, findings}},
		{Name: "open dangers", Source: "as cmkeeper keys lists them", Values: bySeverity},
		{Name: "checks", Source: "the report", Values: checks},
	}
	return a
}

// notMade tells that the account has too many keys.
func (s *reportSchedule) notMade(week string, why error) alert.Alert {
	a := s.alert(week)
	a.Title = "The report of week " + week + " was not made: the account has too many keys"
	a.Summary = fmt.Sprintf("%v. The fleet's report is made of at most %d keys, because workers have little memory.", why, fleetKeys)
	a.Next = []string{"Make the report on a machine with more memory:", command.Line("cmkeeper report --out keys.html")}
	return a
}
