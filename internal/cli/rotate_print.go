package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/rotate"
)

// rotationJSON is a rotation with its schema.
type rotationJSON struct {
	Schema string `json:"schema"`
	rotate.Record
}

func printRotationJSON(w io.Writer, r rotate.Record) error {
	return printJSON(w, rotationJSON{rotate.Schema, r})
}

func printRotationsJSON(w io.Writer, all []rotate.Record) error {
	out := struct {
		Schema    string          `json:"schema"`
		Rotations []rotate.Record `json:"rotations"`
	}{rotate.Schema, append([]rotate.Record{}, all...)}
	return printJSON(w, out)
}

// printRotations lists rotations for people.
func printRotations(w io.Writer, all []rotate.Record) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "There are no rotations.")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ROTATION\tSTATE\tNEXT STEP\tSTARTED\tALIAS")
	for _, r := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.ID, r.State, cmp.Or(string(r.Step), "-"), when(r.Started), alert.Escape(r.Alias()))
	}
	return table.Flush()
}

// columns is how wide texts for people are.
const columns = 80

// printRotation writes a rotation for people.
func printRotation(w io.Writer, r rotate.Record) error {
	var b strings.Builder
	paragraph := func(indent, text string) { b.WriteString(wrapTo(columns, alert.Escape(text), indent, indent)) }
	fmt.Fprintf(&b, "Rotation %s of %s: %s\n", r.ID, alert.Escape(strings.Join(r.Aliases, ", ")), r.State)
	fmt.Fprintf(&b, "  old key  %s\n", alert.Escape(r.Old))
	if r.New != "" {
		fmt.Fprintf(&b, "  new key  %s\n", alert.Escape(r.New))
	}
	fmt.Fprintf(&b, "  begun    %s by %s\n\n", when(r.Started), alert.Escape(r.By))
	for _, d := range r.Done {
		fmt.Fprintf(&b, "  done  %s, %s\n", d.Step, when(d.At))
		paragraph("        ", d.What)
	}
	if r.Step != "" {
		fmt.Fprintf(&b, "  next  %s\n", r.Step)
		if r.Why != "" {
			paragraph("        ", r.Why)
		}
	}
	which, moves := "old", r.Moves
	if r.State == rotate.StateAborting || r.State == rotate.StateAborted {
		which, moves = "new", r.Back
	}
	for _, m := range moves {
		if m.Job != "" && !m.Ended {
			fmt.Fprintf(&b, "        %s\n", command.Line("cmkeeper reencrypt watch %s", command.Job(m.Job)))
		}
	}
	printLeft(&b, "What may still need the "+which+" key:", r.Left, r.Notes)
	if !r.Ended() {
		id := command.Rotation(r.ID)
		fmt.Fprintf(&b, "\nTo go on:  %s\n", command.Line("cmkeeper rotate resume %s", id))
		if r.State == rotate.StateRunning && !r.InPlace() {
			fmt.Fprintf(&b, "To undo:   %s\n", command.Line("cmkeeper rotate abort %s", id))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// usdText is an estimate in dollars.
func usdText(usd float64) string {
	if usd > 0 && usd < 0.01 {
		return "less than $0.01"
	}
	return fmt.Sprintf("about $%.2f", usd)
}

// printLeft writes what may still need a key, and what no check can see.
func printLeft(b *strings.Builder, title string, left []rotate.Left, notes []string) {
	if len(left) > 0 {
		fmt.Fprintf(b, "\n%s\n", title)
	}
	for _, l := range left {
		fmt.Fprintf(b, "  %s\n", alert.Escape(l.ID))
		b.WriteString(wrapTo(columns, alert.Escape(l.What), "      ", "      "))
		switch {
		case command.Safe(l.Fix): // which is pasted, and must not be broken
			fmt.Fprintf(b, "      %s\n", l.Fix)
		case l.Fix != "":
			b.WriteString(wrapTo(columns, alert.Escape(l.Fix), "      ", "      "))
		}
	}
	for _, n := range notes {
		b.WriteString("\n" + wrapTo(columns, n, "", ""))
	}
}

// printRotationPlan writes a plan for people.
func printRotationPlan(w io.Writer, p rotate.Plan) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Dry run: what a rotation of %s would do. Nothing was changed.\n", alert.Escape(strings.Join(p.Aliases, ", ")))
	fmt.Fprintf(&b, "  old key  %s\n", alert.Escape(p.Old))
	for i, s := range p.Steps {
		fmt.Fprintf(&b, "\n%d. %s", i+1, s.Step)
		if s.USD > 0 {
			fmt.Fprintf(&b, "  %s", usdText(s.USD))
		}
		b.WriteString("\n")
		b.WriteString(wrapTo(columns, alert.Escape(s.What), "   ", "   "))
		for _, n := range s.Notes {
			b.WriteString(wrapTo(columns, alert.Escape(n), "   - ", "     "))
		}
		if s.Step == rotate.StepCreateKey && len(p.Findings) > 0 {
			b.WriteString("   - The policy has findings: " + headline(p.Findings) + "\n")
			for _, f := range p.Findings {
				b.WriteString(wrapTo(columns, alert.Escape(f.ID.String()+": "+f.Message), "     ", "     "))
			}
		}
		if s.Step == rotate.StepMoveData {
			for _, bucket := range p.Buckets {
				fmt.Fprintf(&b, "   - s3://%s by %s: %d to move (%s), %d refused\n", bucket.Bucket, bucket.Method, bucket.Move.Versions, bytesText(bucket.Move.Bytes), bucket.Refuse.Versions)
			}
		}
	}
	printLeft(&b, "What would still need the old key, or may:", p.Left, p.Notes)
	fmt.Fprintf(&b, "\nIt costs %s once, and %s a month more.\n", usdText(p.USD), usdText(p.MonthlyUSD))
	b.WriteString(wrapTo(columns, "("+reencrypt.Prices+")", "", ""))
	for _, stop := range p.Stops {
		b.WriteString(wrapTo(columns, "It cannot begin: "+alert.Escape(stop)+".", "", ""))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
