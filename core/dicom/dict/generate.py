#!/usr/bin/python3
"""Writes dicom_dict_table.h from the dicom.dic that DCMTK brings.

usage: generate.py OUTPUT [dicom.dic]

Two sorted tables: attributes by tag (with VR and the offset of their keyword), and their order by keyword.
"""

import glob
import re
import sys

LINE = re.compile(r"\(([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)\t(\w\w)\t(\w+)\t")
# DCMTK's own pseudo VRs: "xs" is US or SS, "ox" and "px" OB or OW, "lt" US or OW, "up" UL as an offset.
PSEUDO = {"xs": "US", "ox": "OW", "px": "OW", "lt": "OW", "up": "UL"}


def main():
    output = sys.argv[1]
    if len(sys.argv) > 2:
        source = sys.argv[2]
    else:
        found = sorted(glob.glob("/usr/share/libdcmtk*/dicom.dic"))
        if not found:
            sys.exit("no /usr/share/libdcmtk*/dicom.dic: install the package libdcmtk-dev")
        source = found[-1]

    by_tag = {}
    by_keyword = {}
    with open(source, encoding="utf-8") as lines:
        for line in lines:
            match = LINE.match(line)
            if not match:
                continue  # comments, and repeating groups and elements, which have no single tag
            group, element, vr, keyword = match.groups()
            if vr == "na" or int(group, 16) & 1:
                continue  # item delimiters, private data
            tag = int(group + element, 16)
            # PS3.6 has the retired attributes' keywords without DCMTK's mark.
            keyword = keyword.removeprefix("RETIRED_")
            if tag in by_tag or keyword in by_keyword:
                continue
            by_tag[tag] = (PSEUDO.get(vr, vr), keyword)
            by_keyword[keyword] = tag

    tags = sorted(by_tag)
    rank = {tag: i for i, tag in enumerate(tags)}
    offset = 0
    with open(output, "w", encoding="ascii") as out:
        out.write("/* Generated from DCMTK's dicom.dic. */\n")
        out.write("static const char dict_keywords[] =\n")
        rows = []
        for tag in tags:
            vr, keyword = by_tag[tag]
            out.write(f'    "{keyword}\\0"\n')
            rows.append((tag, vr, offset))
            offset += len(keyword) + 1
        out.write("    ;\n\n")
        out.write("static const struct dict_entry dict_entries[] = {\n")
        for tag, vr, start in rows:
            out.write(f'    {{0x{tag:08x}u, {start}u, "{vr}"}},\n')
        out.write("};\n\n")
        out.write("static const uint16_t dict_by_keyword[] = {\n")
        for keyword in sorted(by_keyword):
            out.write(f"    {rank[by_keyword[keyword]]}u,\n")
        out.write("};\n")


if __name__ == "__main__":
    main()
