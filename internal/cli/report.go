package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cmkeeper/cmkeeper/guard"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/keyreport"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

const reportAbout = `Makes one page of HTML about the keys of the account and Region, for people who audit them: how they stand, what is wrong with them, how that went according to the fleet's records, what was forgiven, and what it says to the controls of public frameworks, with evidence. The page needs nothing else, has no scripts, and prints. Nothing in AWS is changed.

Give it the fleet's variables; with CMKEEPER_STATE_BUCKET it reads what the fleet recorded. What is not known is said, and no control passes because of that.`

// reportFlags are the flags of report.
type reportFlags struct {
	json, csv, ocsf bool
	out             string
	share           float64
}

func newReportCommand(p *process) *cobra.Command {
	var f reportFlags
	command := &cobra.Command{
		Use: "report", Short: "Make a report about the keys for an auditor: HTML, JSON, CSV or OCSF", Long: reportAbout, Args: cobra.NoArgs,
		RunE: p.action(f.run),
	}
	flags := command.Flags()
	flags.BoolVar(&f.json, "json", false, "print one JSON object with everything")
	flags.BoolVar(&f.csv, "csv", false, "print the controls with their evidence as comma-separated values")
	flags.BoolVar(&f.ocsf, "ocsf", false, "print compliance findings of OCSF "+keyreport.OCSFVersion+", one line of JSON each")
	flags.StringVarP(&f.out, "out", "o", "", "write to this `file` instead of standard output; only its owner may read it")
	addShare(command, &f.share)
	return command
}

// check returns what is wrong with the flags, for a standard output.
func (f *reportFlags) check(stdout io.Writer) error {
	formats := 0
	for _, chosen := range []bool{f.json, f.csv, f.ocsf} {
		if chosen {
			formats++
		}
	}
	file, _ := stdout.(*os.File)
	switch {
	case formats > 1:
		return errors.New("--json, --csv and --ocsf exclude each other")
	case f.share <= 0 || f.share > 1:
		return errors.New("--quota-share must be above 0, up to 1")
	case formats == 0 && f.out == "" && file != nil && term.IsTerminal(int(file.Fd())):
		return errors.New("name a file for the page with --out, or choose --json, --csv or --ocsf")
	}
	return nil
}

func (f *reportFlags) run(ctx context.Context, p *process) error {
	if err := f.check(p.stdout); err != nil {
		return usageError{err}
	}
	const calls = 64
	hand, err := loadByHand(ctx, p, calls)
	if err != nil {
		return err
	}
	r, err := hand.report(ctx, f.share)
	if err != nil {
		return err
	}
	if f.out == "" {
		return f.write(p.stdout, r)
	}
	return replaceFile(f.out, func(w io.Writer) error { return f.write(w, r) })
}

func (f *reportFlags) write(w io.Writer, r keyreport.Report) error {
	switch {
	case f.json:
		return printJSON(w, r)
	case f.csv:
		return keylist.WriteCSV(w, r.CSV())
	case f.ocsf:
		return r.OCSF(w)
	}
	_, err := io.WriteString(w, r.Page())
	return err
}

// report makes the report, with this part of KMS's quotas.
func (b byHand) report(ctx context.Context, share float64) (keyreport.Report, error) {
	var jobs keyreport.Jobs
	if bucket := b.settings.StateBucket; bucket != "" {
		reader, err := b.jobReader(bucket)
		if err != nil {
			return keyreport.Report{}, err
		}
		jobs = reader
	}
	show, finish := counting(b.stderr)
	defer finish()
	return b.reportOf(ctx, keylist.Options{Seen: func(keys int) { show("keys", int64(keys)) }}, share, jobs)
}

// reportOf makes the report of the keys that the options ask for. jobs is nil without a
// state bucket.
func (b byHand) reportOf(ctx context.Context, o keylist.Options, share float64, jobs keyreport.Jobs) (keyreport.Report, error) {
	if err := b.judgedBy(&o, share); err != nil {
		return keyreport.Report{}, err
	}
	l, err := keylist.New(ctx, o)
	if err != nil {
		return keyreport.Report{}, err
	}
	history := keyreport.NoHistory(envPrefix + "STATE_BUCKET is not set")
	if bucket := b.settings.StateBucket; bucket != "" {
		history = keyreport.ReadHistory(ctx, b.store(bucket), jobs)
	}
	return keyreport.Make(keyreport.Input{
		Made: time.Now(), By: b.caller, Version: strings.TrimPrefix(versionString(), "cmkeeper "), Keys: l,
		RotationPeriodDays: b.settings.RotationPeriodDays, SweepInterval: b.settings.SweepInterval, EBS: b.encryptedByDefault(ctx), Trails: b.readTrails(ctx), Exemptions: o.Exemptions, History: history,
	}), ctx.Err()
}

// encryptedByDefault reads whether new EBS volumes are encrypted by default.
func (b byHand) encryptedByDefault(ctx context.Context) keyreport.Setting {
	s := keyreport.Setting{Read: keylist.Read{At: time.Now().UTC()}}
	var err error
	if s.On, err = b.ebs.EncryptedByDefault(ctx); err != nil {
		s.NotKnown = err.Error()
	}
	return s
}

// readTrails reads the trails of CloudTrail.
func (b byHand) readTrails(ctx context.Context) keyreport.Trails {
	t := keyreport.Trails{Read: keylist.Read{At: time.Now().UTC()}, All: []keyreport.Trail{}}
	all, err := guard.Reader{Trails: b.trails}.ListTrails(ctx)
	if err != nil {
		t.NotKnown = err.Error()
	}
	for _, trail := range all {
		t.All = append(t.All, keyreport.Trail{Name: trail.Name, ARN: trail.ARN, Key: trail.Key})
	}
	return t
}

// jobReader is an engine for reading jobs. Reading sends nothing, so its queue is none.
func (b byHand) jobReader(bucket string) (*reencrypt.Engine, error) {
	e, err := reencrypt.New(reencrypt.Options{
		S3: b.s3, Resolver: b.facts, KMS: b.kms, Account: b.account, Store: b.store(bucket), StateBucket: bucket, StatePrefix: b.settings.StatePrefix,
		SQS: ownMessages{b.sqs, ""}, QueueURL: "https://sqs.invalid/", Observer: handlers.JobAlerts{}, Logger: b.settings.logger(b.stderr),
	})
	if err != nil {
		return nil, fmt.Errorf("read jobs: %w", err)
	}
	return e, nil
}
