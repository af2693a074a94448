/* What one process of bare DCMTK reads: DcmFileFormat::loadFile over every file below FOLDER (at
 * most COUNT), and the SOP Instance UID of each. Prints one line of JSON.
 *
 *   bare_reader FOLDER [COUNT] */
#include <dcmtk/config/osconfig.h>
#include <dcmtk/dcmdata/dctk.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

int main(int argc, char **argv)
{
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s FOLDER [COUNT]\n", argv[0]);
        return 2;
    }
    const size_t limit = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : SIZE_MAX;
    std::vector<std::string> paths;
    for (const auto &entry : std::filesystem::recursive_directory_iterator(argv[1])) {
        if (paths.size() == limit)
            break;
        if (entry.is_regular_file())
            paths.push_back(entry.path());
    }
    dcmDataDict.rdlock(); /* the dictionary is loaded at the first use, not while the clock runs */
    dcmDataDict.rdunlock();
    const auto begin = std::chrono::steady_clock::now();
    for (const std::string &path : paths) {
        DcmFileFormat file;
        OFString uid;
        const OFCondition read = file.loadFile(path.c_str());
        if (read.bad() || file.getDataset()->findAndGetOFString(DCM_SOPInstanceUID, uid).bad()) {
            std::fprintf(stderr, "bare_reader: %s: %s\n", path.c_str(), read.text());
            return 1;
        }
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("{\"files\": %zu, \"seconds\": %.4f}\n", paths.size(), seconds.count());
    return 0;
}
