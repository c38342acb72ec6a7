package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/usage"
)

const usageAbout = `Says what was done with a key: how often, by whom, from where, for which resource, what was refused, and what of that is unusual against as long a time before.

It asks CloudTrail's event history, which has the last 90 days and takes two requests a second of 50 events each; it takes one of them. For a busy key, give it the log files of a trail: a folder, or s3://BUCKET/PREFIX (AWSLogs/ACCOUNT/CloudTrail/REGION/). --sql prints a query that counts the same where the logs are too many for one machine.

Where something could not be read, the table is printed and the exit code is 1.

Who may use a key chooses the encryption context, so a resource is what the caller said.`

const usageExample = `  cmkeeper usage alias/app --days 7
  cmkeeper usage alias/app --logs s3://my-trail/AWSLogs/111122223333/CloudTrail/eu-central-1/
  cmkeeper usage alias/app --sql athena --table cloudtrail_logs`

type usageCommand struct {
	days, requests int
	logs           string
	sql, table     string
	json, csv      bool
}

func newUsageCommand(p *process) *cobra.Command {
	var c usageCommand
	command := &cobra.Command{
		Use: "usage KEY", Short: "Say what was done with a key, by whom, and what of it is unusual", Long: usageAbout, Example: usageExample,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error { return c.run(ctx, p, args[0]) })(cmd, args)
		},
	}
	flags := command.Flags()
	flags.IntVar(&c.days, "days", 30, "days until now; as many before are compared with")
	flags.StringVar(&c.logs, "logs", "", "read the log files of a trail in this `folder`, or s3://BUCKET/PREFIX, instead of the event history")
	flags.IntVar(&c.requests, "requests", 300, "ask the event history this often at most, once a second; 0 is without a limit")
	flags.StringVar(&c.sql, "sql", "", "print a query for `athena` or lake instead, and ask nobody for events")
	flags.StringVar(&c.table, "table", "cloudtrail_logs", "with --sql: the `table` of the logs, or the id of the event data store")
	flags.BoolVar(&c.json, "json", false, "print the table as one JSON object")
	flags.BoolVar(&c.csv, "csv", false, "print comma-separated values: what, name, calls, failed, first, last")
	command.MarkFlagsMutuallyExclusive("json", "csv", "sql")
	command.MarkFlagsMutuallyExclusive("logs", "sql")
	return command
}

// run reads and prints.
func (c *usageCommand) run(ctx context.Context, p *process, key string) error {
	switch {
	case c.days < 1:
		return usageError{errors.New("--days must be at least 1")}
	case c.requests < 0:
		return usageError{errors.New("--requests must not be negative")}
	}
	hand, err := loadByHand(ctx, p, 16)
	if err != nil {
		return err
	}
	k, err := hand.facts.Key(ctx, key)
	if err != nil {
		return err
	}
	to := time.Now().UTC().Truncate(time.Second)
	from := to.AddDate(0, 0, -c.days)
	if c.sql != "" {
		query, err := usage.SQL(usage.Engine(c.sql), c.table, k.ARN, from, to)
		if err != nil {
			return usageError{err}
		}
		_, err = fmt.Fprintln(p.stdout, query+";")
		return err
	}
	var outside func(time.Time) bool
	if text := hand.settings.BusinessHours; text != "" {
		hours, err := judgement.ParseHours(text)
		if err != nil {
			return usageError{err}
		}
		outside = func(t time.Time) bool { return !hours.Include(t) }
	}
	collector := usage.NewCollector(k.ARN, from, to, outside)
	if err := c.collect(ctx, p, hand, collector); err != nil {
		return err
	}
	t := collector.Table()
	switch {
	case c.json:
		err = printJSON(p.stdout, t)
	case c.csv:
		err = printUsageCSV(p.stdout, t)
	default:
		err = printUsage(p.stdout, t)
	}
	return cmp.Or(err, t.Source.Err())
}

// collect reads the events.
func (c *usageCommand) collect(ctx context.Context, p *process, hand byHand, to *usage.Collector) error {
	out := newLine(p.stderr)
	show := func(format string, args ...any) {
		if out.terminal != nil {
			_ = out.show(fmt.Sprintf(format, args...))
		}
	}
	defer func() {
		if out.terminal != nil {
			_ = out.end()
		}
	}()
	if c.logs == "" {
		to.Name("CloudTrail's event history of this Region")
		return to.LookUp(ctx, hand.trails, c.requests, func(l usage.Looked) {
			show("%d requests, back to %s, about %s left", l.Requests, l.Back.Format(time.DateOnly), l.Left.Round(time.Second))
		})
	}
	to.Name(c.logs)
	files, err := c.files(ctx, hand)
	if err != nil {
		return err
	}
	var all int64
	for _, f := range files {
		all += f.Size
	}
	return to.ReadFiles(ctx, files, func(n int64) { show("%s of at most %s read", bytesText(n), bytesText(all)) })
}

// files lists the log files.
func (c *usageCommand) files(ctx context.Context, hand byHand) (files []usage.File, err error) {
	place, inS3 := strings.CutPrefix(c.logs, "s3://")
	if !inS3 {
		files, err = usage.Folder(os.DirFS(c.logs))
	} else {
		bucket, prefix, _ := strings.Cut(place, "/")
		pages := s3.NewListObjectsV2Paginator(hand.s3, &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: &prefix})
		for err == nil && pages.HasMorePages() {
			var page *s3.ListObjectsV2Output
			if page, err = pages.NextPage(ctx); err != nil {
				err = fmt.Errorf("%w; this takes s3:ListBucket on bucket %s", err, bucket)
				break
			}
			for _, o := range page.Contents {
				if name := aws.ToString(o.Key); usage.IsLog(name) {
					files = append(files, usage.File{Name: name, Size: aws.ToInt64(o.Size), Open: func(ctx context.Context) (io.ReadCloser, error) {
						out, err := hand.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &name})
						if err != nil {
							return nil, missing(err)
						}
						return out.Body, nil
					}})
				}
			}
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("list log files in %s: %w", c.logs, err)
	case len(files) == 0:
		return nil, fmt.Errorf("there are no log files (.json.gz) in %s", c.logs)
	}
	return files, nil
}

// missing names the permission that a refused GetObject lacks. S3 passes on KMS's refusal.
func missing(err error) error {
	api, ok := errors.AsType[smithy.APIError](err)
	switch {
	case !ok || api.ErrorCode() != "AccessDenied":
		return err
	case strings.Contains(api.ErrorMessage(), "kms:Decrypt"):
		return fmt.Errorf("this takes kms:Decrypt of the key that the trail encrypts its log files with: %w", err)
	}
	return fmt.Errorf("this takes s3:GetObject on the bucket's objects: %w", err)
}

// sections are the rows of a table, with a title and what they are in CSV.
func sections(t usage.Table) []struct {
	title, what string
	rows        []usage.Row
} {
	return []struct {
		title, what string
		rows        []usage.Row
	}{
		{"Operations", "operation", t.Operations}, {"Principals", "principal", t.Principals}, {"Roles", "role", t.Roles},
		{"On behalf of them, services", "service", t.Services}, {"Source addresses", "address", t.Addresses},
		{"Resources, as the callers named them", "resource", t.Resources}, {"Refused", "failure", t.Failures},
	}
}

func printUsageCSV(w io.Writer, t usage.Table) error {
	rows := [][]string{{"what", "name", "calls", "failed", "first", "last"}}
	for _, s := range sections(t) {
		for _, r := range s.rows {
			rows = append(rows, []string{s.what, r.Name, fmt.Sprint(r.Calls), fmt.Sprint(r.Failed), when(r.First), when(r.Last)})
		}
	}
	for _, d := range t.Days {
		rows = append(rows, []string{"day", d.Date, fmt.Sprint(d.Calls), fmt.Sprint(d.Failed), "", ""})
	}
	return keylist.WriteCSV(w, rows)
}

const (
	// usageRows is how many rows of a kind people are shown, chartWidth how wide the chart is.
	usageRows  = 10
	chartWidth = 50
)

// printUsage writes a table for people.
func printUsage(w io.Writer, t usage.Table) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s to %s: %d calls, %d refused", t.Key, when(t.From), when(t.To), t.Calls, t.Failed)
	if t.Outside != nil {
		fmt.Fprintf(&b, ", %d outside business hours", *t.Outside)
	}
	b.WriteString("\n")
	if t.Calls > 0 {
		fmt.Fprintf(&b, "first %s, last %s\n", when(t.First), when(t.Last))
	}
	fmt.Fprintf(&b, "\nUnusual\n")
	for _, u := range t.Unusual[:min(len(t.Unusual), 2*usageRows)] {
		b.WriteString(wrapTo(80, fmt.Sprintf("%s %s: %s", u.Kind, alert.Escape(u.Name), u.Text), "  ", "      "))
	}
	if more := len(t.Unusual) - 2*usageRows; more > 0 {
		fmt.Fprintf(&b, "  and %d more; --json has all\n", more)
	}
	b.WriteString(wrapTo(80, t.Before, "  ", "  "))
	for _, s := range sections(t) {
		if len(s.rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s\n", s.title)
		for _, r := range s.rows[:min(len(s.rows), usageRows)] {
			refused := ""
			if r.Failed > 0 && s.what != "failure" {
				refused = fmt.Sprintf("  %d refused", r.Failed)
			}
			fmt.Fprintf(&b, "  %9d  %s%s\n", r.Calls, alert.Escape(r.Name), refused)
		}
		if more := len(s.rows) - usageRows; more > 0 {
			fmt.Fprintf(&b, "             and %d more; --json and --csv have all\n", more)
		}
	}
	printDays(&b, t.Days)
	fmt.Fprintf(&b, "\nFrom %s: %d records", alert.Escape(t.Source.Name), t.Source.Records)
	if t.Source.Files > 0 {
		fmt.Fprintf(&b, " in %d files", t.Source.Files)
	}
	if t.Source.Repeated > 0 {
		fmt.Fprintf(&b, ", of which %d came twice and count once", t.Source.Repeated)
	}
	b.WriteString(".\n")
	if since := t.Source.MayLackSince; !since.IsZero() {
		b.WriteString(wrapTo(80, fmt.Sprintf("Calls of the last 15 minutes, since %s, may be missing: CloudTrail shows a call some minutes later, and promises no time.", when(since)), "", "  "))
	}
	for _, u := range t.Source.Unread {
		b.WriteString(wrapTo(80, "Not read: "+alert.Escape(u), "", "  "))
	}
	if t.Source.UnreadMore > 0 {
		fmt.Fprintf(&b, "Not read: %d more.\n", t.Source.UnreadMore)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printDays draws the days.
func printDays(b *strings.Builder, days []usage.Day) {
	if len(days) == 0 {
		return
	}
	most := slices.MaxFunc(days, func(x, y usage.Day) int { return int(x.Calls - y.Calls) }).Calls
	if most == 0 {
		return
	}
	b.WriteString("\nCalls by day (UTC)\n")
	for _, d := range days {
		bar := strings.Repeat("#", int((d.Calls*chartWidth+most-1)/most))
		b.WriteString(strings.TrimRight(fmt.Sprintf("  %s %9d %s", d.Date, d.Calls, bar), " ") + "\n")
	}
}
