package keyreport

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
)

// CSV returns the controls as rows, of which the first has the names of the columns: one
// row for each resource that a control's checks looked at, and one for a check without.
func (r Report) CSV() [][]string {
	rows := [][]string{{"framework", "version", "control", "title", "control_status", "check", "what_was_checked", "check_status", "check_summary", "resource", "name", "resource_status", "what", "read_at", "how", "exempt"}}
	for _, f := range r.Frameworks {
		for _, control := range f.Controls {
			for _, id := range control.Checks {
				c := r.Check(id)
				row := []string{f.Name, f.Version, control.ID, control.Title, string(r.Status(control)), string(c.ID), c.Title, string(c.Status), c.Summary}
				if len(c.Evidence) == 0 {
					rows = append(rows, append(row, "", "", "", "", "", c.How, ""))
				}
				for _, e := range c.Evidence {
					at := ""
					if !e.At.IsZero() {
						at = e.At.UTC().Format(time.RFC3339)
					}
					rows = append(rows, append(row[:len(row):len(row)], e.Resource, e.Name, string(e.Status), e.What, at, e.How, e.Exempt))
				}
			}
		}
	}
	return rows
}

// OCSFVersion is the version of the Open Cybersecurity Schema Framework of the findings
// (https://github.com/ocsf/ocsf-schema, released on 2026-03-16).
const OCSFVersion = "1.8.0"

// ocsf is a finding of OCSF's class 2003, Compliance Finding, with the profile cloud.
type ocsf struct {
	ActivityID   int    `json:"activity_id"`
	ActivityName string `json:"activity_name"`
	CategoryUID  int    `json:"category_uid"`
	CategoryName string `json:"category_name"`
	ClassUID     int    `json:"class_uid"`
	ClassName    string `json:"class_name"`
	TypeUID      int    `json:"type_uid"`
	TypeName     string `json:"type_name"`
	SeverityID   int    `json:"severity_id"`
	Severity     string `json:"severity"`
	StatusID     int    `json:"status_id"`
	Status       string `json:"status"`
	Time         int64  `json:"time"`
	Message      string `json:"message"`

	Metadata    ocsfMetadata    `json:"metadata"`
	FindingInfo ocsfFindingInfo `json:"finding_info"`
	Compliance  ocsfCompliance  `json:"compliance"`
	Resources   []ocsfResource  `json:"resources,omitempty"`
	Remediation ocsfRemediation `json:"remediation"`
	Cloud       ocsfCloud       `json:"cloud"`
}

type ocsfMetadata struct {
	Version  string      `json:"version"`
	Product  ocsfProduct `json:"product"`
	Profiles []string    `json:"profiles"`
}

type ocsfProduct struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
	Version    string `json:"version"`
}

// ocsfFindingInfo has the same UID in every report, so that a later report is an update of
// the finding, and no new one. When it was first made is not recorded.
type ocsfFindingInfo struct {
	UID          string `json:"uid"`
	Title        string `json:"title"`
	Desc         string `json:"desc"`
	ModifiedTime int64  `json:"modified_time"`
}

type ocsfCompliance struct {
	Control       string   `json:"control"`
	Standards     []string `json:"standards"`
	Requirements  []string `json:"requirements"`
	StatusID      int      `json:"status_id"`
	Status        string   `json:"status"`
	StatusDetails []string `json:"status_details"`
}

type ocsfResource struct {
	UID    string `json:"uid"`
	Name   string `json:"name,omitempty"`
	Type   string `json:"type"`
	Region string `json:"region"`
}

type ocsfRemediation struct {
	Desc string `json:"desc"`
}

type ocsfCloud struct {
	Provider string      `json:"provider"`
	Region   string      `json:"region"`
	Account  ocsfAccount `json:"account"`
}

type ocsfAccount struct {
	UID    string `json:"uid"`
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
}

// OCSF writes the checks as findings, one line of JSON each: for every resource that a
// check looked at, and one for a check without.
func (r Report) OCSF(w io.Writer) error {
	e := json.NewEncoder(alert.JSONWriter{W: w})
	for _, c := range r.Checks {
		evidence := c.Evidence
		if len(evidence) == 0 {
			evidence = []Evidence{{Status: c.Status, What: c.Summary, How: c.How}}
		}
		standards, requirements := r.asksFor(c.ID)
		for _, one := range evidence {
			if err := e.Encode(r.ocsf(c, one, standards, requirements)); err != nil {
				return err
			}
		}
	}
	return nil
}

// asksFor are the frameworks that ask for a check, and the numbers of their controls.
func (r Report) asksFor(id CheckID) (standards, requirements []string) {
	standards, requirements = []string{}, []string{}
	for _, f := range r.Frameworks {
		asks := false
		for _, c := range f.Controls {
			for _, check := range c.Checks {
				if check == id {
					asks = true
					requirements = append(requirements, f.Name+" "+c.ID)
				}
			}
		}
		if asks {
			standards = append(standards, f.Name+" "+f.Version)
		}
	}
	return standards, requirements
}

func (r Report) ocsf(c Check, e Evidence, standards, requirements []string) ocsf {
	at := r.Made
	if !e.At.IsZero() {
		at = e.At
	}
	f := ocsf{
		ActivityID: 1, ActivityName: "Create", CategoryUID: 2, CategoryName: "Findings", ClassUID: 2003, ClassName: "Compliance Finding",
		TypeUID: 200301, TypeName: "Compliance Finding: Create", StatusID: 1, Status: "New", Time: at.UnixMilli(), Message: fmt.Sprintf("%s: %s", c.Title, e.What),
		Metadata:    ocsfMetadata{OCSFVersion, ocsfProduct{"cmkeeper", "cmkeeper", r.Version}, []string{"cloud"}},
		FindingInfo: ocsfFindingInfo{strings.Join([]string{"cmkeeper", r.Keys.Account, r.Keys.Region, string(c.ID), cmp.Or(e.Resource, "account")}, "/"), c.Title, c.How, r.Made.UnixMilli()},
		Compliance:  ocsfCompliance{Control: string(c.ID), Standards: standards, Requirements: requirements, StatusDetails: []string{e.What, e.How}},
		Remediation: ocsfRemediation{c.Fix},
		Cloud:       ocsfCloud{"AWS", r.Keys.Region, ocsfAccount{r.Keys.Account, 10, "AWS Account"}},
	}
	if e.Resource != "" {
		f.Resources = []ocsfResource{{e.Resource, e.Name, e.Type, r.Keys.Region}}
	}
	if e.Exempt != "" {
		f.StatusID, f.Status = 3, "Suppressed"
		f.Compliance.StatusDetails = append(f.Compliance.StatusDetails, "exempt: "+e.Exempt)
	}
	f.SeverityID, f.Severity = 1, "Informational"
	switch e.Status {
	case Pass:
		f.Compliance.StatusID, f.Compliance.Status = 1, "Pass"
	case Fail:
		f.Compliance.StatusID, f.Compliance.Status = 3, "Fail"
		f.SeverityID, f.Severity = ocsfSeverity(c.Severity)
	default: // "did not yield a result due to missing information"
		f.Compliance.StatusID, f.Compliance.Status = 2, "Warning"
	}
	return f
}

func ocsfSeverity(s finding.Severity) (id int, caption string) {
	switch s {
	case finding.Critical:
		return 5, "Critical"
	case finding.High:
		return 4, "High"
	case finding.Medium:
		return 3, "Medium"
	case finding.Low:
		return 2, "Low"
	case finding.Info:
	}
	return 1, "Informational"
}
